"""The nouns of vzoom: what flows from a video file to an answer.

Shapes: N frames, H rows, W columns, T tokens. Times are seconds from the first displayed frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np


class StopReason(StrEnum):
    """Why a conversation ended. Everything here is something the model did, so it is a value."""

    ANSWERED = "answered"
    ROUNDS = "rounds"  # the last generation ended without an answer
    TURN_TOKENS = "turn_tokens"  # one turn reached its limit of new tokens
    TOTAL_TOKENS = "total_tokens"  # the conversation reached its limit of tokens
    CANCELLED = "cancelled"


class CallError(StrEnum):
    """What can be wrong with a turn of the model. The text that goes back is in `protocol.feedback`."""

    BAD_JSON = "bad_json"
    MISSING_KEY = "missing_key"
    BAD_VALUE = "bad_value"
    NOT_FINITE = "not_finite"
    NEGATIVE = "negative"
    REVERSED = "reversed"
    BEYOND_END = "beyond_end"
    ZERO_FRAMES = "zero_frames"
    TOO_MANY_FRAMES = "too_many_frames"
    OVER_BUDGET = "over_budget"
    NO_ZOOMS_LEFT = "no_zooms_left"
    TWO_CALLS = "two_calls"
    CALL_AND_ANSWER = "call_and_answer"
    UNCLOSED = "unclosed"
    EMPTY = "empty"  # neither a call nor an answer
    UNREADABLE = "unreadable"  # the segment exists but the file has no decodable frame there


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before a frame of it is decoded."""

    path: str
    duration_seconds: float
    fps: float
    width: int
    height: int


@dataclass(frozen=True)
class Clip:
    """Frames as they were displayed. `frames` is uint8 [N, H, W, 3] RGB.

    `pts_seconds[i]` is the true time of frame i, `clamped[i]` whether the asked time lay beyond the last
    decodable frame. Asked times that fall on one frame give that frame once.
    """

    frames: np.ndarray
    pts_seconds: tuple[float, ...]
    frame_indices: tuple[int, ...]
    clamped: tuple[bool, ...]

    def __post_init__(self) -> None:
        n = len(self.pts_seconds)
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[3] != 3:
            raise ValueError(f"frames must be uint8 [N, H, W, 3], got {self.frames.dtype} {self.frames.shape}")
        if not (len(self.frames) == n == len(self.frame_indices) == len(self.clamped)):
            raise ValueError(f"{len(self.frames)} frames with {n} times, {len(self.frame_indices)} indices")

    def __len__(self) -> int:
        return len(self.pts_seconds)


@dataclass(frozen=True)
class ZoomCall:
    """A request of the model: the half-open interval [start_seconds, end_seconds) at `fps` frames a second."""

    start_seconds: float
    end_seconds: float
    fps: float


@dataclass(frozen=True)
class Answer:
    """The model's final answer, without tags and without surrounding white space."""

    text: str


@dataclass(frozen=True)
class Malformed:
    """A turn that cannot be carried out; `detail` says what was seen, for the model to read."""

    error: CallError
    detail: str


@dataclass(frozen=True)
class Visual:
    """One image in the token stream: its time, its patch grid, and the tokens that it occupies."""

    pts_seconds: float
    grid_hw: tuple[int, int]  # in patches, before merging
    offset: int  # index of its first visual token in Trajectory.ids
    num_tokens: int


STAGES = ("decode", "patches", "vision", "prefill", "generate")


def _rounded(milliseconds: dict[str, float]) -> dict[str, float]:
    return {stage: round(value, 3) for stage, value in milliseconds.items()}


@dataclass
class Turn:
    """One generation of the model and what came back for it."""

    text: str = ""
    outcome: ZoomCall | Answer | Malformed | None = None
    num_sampled: int = 0
    num_prefilled: int = 0  # tokens fed to the model to open this turn: the prompt, or pending + tool turn
    end_seconds: float = 0.0  # the call's end after clamping to the video; 0 where nothing was zoomed
    pts_seconds: tuple[float, ...] = ()  # frames that the call brought
    # by STAGES: decode, patches, vision and prefill of what opened this turn, generate of its own tokens
    milliseconds: dict[str, float] = field(default_factory=dict)
    num_reused: int = 0  # of num_prefilled, tokens that were not fed but moved from another session: approximate

    def cost_json(self) -> dict[str, Any]:
        """What it took to open this turn, and to write it."""
        return {
            "tokens_prefilled": self.num_prefilled,
            "tokens_reused": self.num_reused,
            "milliseconds": _rounded(self.milliseconds),
        }


@dataclass
class Trajectory:
    """A conversation, token for token: what RL trains on and what the law tests replay.

    ids, sampled, logprobs have length T; positions is 3 lists of length T (time, row, column).
    `sampled[i]` is True where the model chose the token. The last sampled token was never fed.
    """

    question: str
    video: VideoInfo
    ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    positions: tuple[list[int], list[int], list[int]] = field(default_factory=lambda: ([], [], []))
    visuals: list[Visual] = field(default_factory=list)
    glance_seconds: tuple[float, ...] = ()
    turns: list[Turn] = field(default_factory=list)
    answer: str | None = None
    stop_reason: StopReason | None = None

    @property
    def zooms(self) -> list[Turn]:
        """The turns that brought a clip."""
        return [turn for turn in self.turns if turn.pts_seconds]

    @property
    def calls(self) -> list[ZoomCall]:
        """The calls that brought a clip, in order."""
        return [turn.outcome for turn in self.zooms if isinstance(turn.outcome, ZoomCall)]

    @property
    def is_exact(self) -> bool:
        """Whether every token was fed to the model; not so where a clip was reused from another session."""
        return not any(turn.num_reused for turn in self.turns)

    @property
    def num_frames(self) -> int:
        """Frames seen in all: glance and zooms."""
        return len(self.visuals)

    def to_json(self) -> dict[str, Any]:
        """The machine-readable summary that `vzoom ask --json` prints.

        A zoom's tokens and milliseconds are those of the turn that its clip opened.
        """
        opened = dict(zip(map(id, self.turns), self.turns[1:], strict=False))
        return {
            "video": self.video.path,
            "duration_seconds": self.video.duration_seconds,
            "question": self.question,
            "answer": self.answer,
            "stop_reason": str(self.stop_reason) if self.stop_reason else None,
            "glance_seconds": list(self.glance_seconds),
            "zooms": [
                {
                    "start_seconds": turn.outcome.start_seconds,
                    "end_seconds": turn.end_seconds,
                    "fps": turn.outcome.fps,
                    "frames": len(turn.pts_seconds),
                    "pts_seconds": list(turn.pts_seconds),
                    **(opened[id(turn)].cost_json() if id(turn) in opened else {}),
                }
                for turn in self.zooms
                if isinstance(turn.outcome, ZoomCall)
            ],
            "turns": [
                {
                    "text": turn.text,
                    "error": str(turn.outcome.error) if isinstance(turn.outcome, Malformed) else None,
                    "tokens_sampled": turn.num_sampled,
                    **turn.cost_json(),
                }
                for turn in self.turns
            ],
            "frames": self.num_frames,
            "exact": self.is_exact,
            "tokens_prefilled": sum(turn.num_prefilled for turn in self.turns),
            "tokens_sampled": sum(turn.num_sampled for turn in self.turns),
            "milliseconds": _rounded(
                {stage: sum(t.milliseconds.get(stage, 0.0) for t in self.turns) for stage in STAGES}
            ),
        }


# ---------------------------------------------------------------- what happens while a session runs


@dataclass(frozen=True)
class TextDelta:
    """Text as it is sampled. `session` is the number that `Engine.add` gave."""

    session: int
    text: str


@dataclass(frozen=True)
class TurnOpened:
    """What opens a turn has been fed: prompt and glance, or a tool turn with its clip.

    turn.num_prefilled and the milliseconds of decode, patches, vision and prefill are final.
    """

    session: int
    turn: Turn
    clip: Clip | None


@dataclass(frozen=True)
class TurnEnded:
    """The model ended its turn: turn.text and turn.outcome are final. `clip` is what its call brought, if anything."""

    session: int
    turn: Turn
    clip: Clip | None


@dataclass(frozen=True)
class Finished:
    session: int
    trajectory: Trajectory


@dataclass(frozen=True)
class Failed:
    """The session could not begin or go on: its video cannot be read, or its glance does not fit. The others run."""

    session: int
    error: Exception


Event = TextDelta | TurnOpened | TurnEnded | Finished | Failed
