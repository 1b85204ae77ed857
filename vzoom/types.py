"""The nouns of vzoom: what flows from a video file to an answer.

Shapes: N frames, H rows, W columns, T tokens. Times are seconds from the first displayed frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


class StopReason(StrEnum):
    """Why a conversation ended. The model did it, so it is a value and not an exception."""

    ANSWERED = "answered"
    ROUNDS = "rounds"  # the last turn ended without an answer
    TURN_TOKENS = "turn_tokens"  # one turn reached its limit of new tokens
    TOTAL_TOKENS = "total_tokens"  # the conversation reached its limit of tokens
    CANCELLED = "cancelled"


class CallError(StrEnum):
    """What can be wrong with a turn of the model. `protocol.feedback` writes the text that the model gets back."""

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
    FRAME_ASKED = "frame_asked"  # nothing is wrong: it asked for the number of the frame at a time, and is told
    UNREADABLE = "unreadable"  # the segment exists but the file has no decodable frame there


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before a frame of it is decoded.

    Attributes:
        path: a file or a URL.
        duration_seconds: from the first displayed frame to the end of the last.
        fps: average frames per second.
        width, height: of a frame as it is displayed, in pixels.
        backend: who decodes it: "pyav", "dali" or "frames"; "" if no reader of vzoom's does.
        notes: what a user should know of how it is read, one line each: why it is not decoded on the GPU, or how its
            pictures are changed to look as they should.
        max_fps: the rate where frames follow each other fastest; None if the rate is constant.
    """

    path: str
    duration_seconds: float
    fps: float
    width: int
    height: int
    backend: str = ""
    notes: tuple[str, ...] = ()
    max_fps: float | None = None


@dataclass(frozen=True)
class Clip:
    """Frames as they are displayed. Requested times that fall on one frame give that frame once.

    Attributes:
        frames: uint8 [N, H, W, 3], RGB; a torch tensor if they were decoded on a GPU and are there. See `images`.
        pts_seconds: the N true times of the frames, in seconds.
        frame_indices: the N indices of the frames in the file, from 0.
        clamped: N times whether the requested time was after the last decodable frame, which stands in for it.
        damaged: N times whether the file is damaged there, so that the frame may not be what was recorded; empty if
            that is not known.

    Raises:
        ValueError: the shapes do not agree.
    """

    frames: np.ndarray | Tensor
    pts_seconds: tuple[float, ...]
    frame_indices: tuple[int, ...]
    clamped: tuple[bool, ...]
    damaged: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.pts_seconds)
        if str(self.frames.dtype) not in ("uint8", "torch.uint8") or self.frames.ndim != 4 or self.frames.shape[3] != 3:
            raise ValueError(f"frames must be uint8 [N, H, W, 3], got {self.frames.dtype} {self.frames.shape}")
        if not (
            len(self.frames) == n == len(self.frame_indices) == len(self.clamped) == len(self.damaged or self.clamped)
        ):
            raise ValueError(f"{len(self.frames)} frames with {n} times, {len(self.frame_indices)} indices")

    def part(self, first: int, count: int) -> Clip:
        """`count` frames from frame `first` on, as a clip."""
        part = slice(first, first + count)
        return Clip(
            self.frames[part],
            self.pts_seconds[part],
            self.frame_indices[part],
            self.clamped[part],
            self.damaged[part],
        )

    def __len__(self) -> int:
        return len(self.pts_seconds)

    @property
    def images(self) -> np.ndarray:
        """The frames in this machine's memory; from a GPU they are copied, each time."""
        return self.frames if isinstance(self.frames, np.ndarray) else self.frames.cpu().numpy()

    def __repr__(self) -> str:
        height, width = self.frames.shape[1:3]
        times = f", {self.pts_seconds[0]:.2f} to {self.pts_seconds[-1]:.2f} s" if self.pts_seconds else ""
        return f"Clip({len(self)} frames, {width}x{height} pixels{times})"


@dataclass(frozen=True)
class ZoomCall:
    """A call of the model: the half-open interval [start_seconds, end_seconds) at `fps` frames per second.

    Attributes:
        start_seconds, end_seconds: the interval.
        fps: frames per second.
        num_frames: frames that the call asks for, if it names their number and not their rate; fps is then that of so
            many frames in the interval.
    """

    start_seconds: float
    end_seconds: float
    fps: float
    num_frames: int | None = None


@dataclass(frozen=True)
class ZoomCalls:
    """Several calls of one turn, which are carried out together or not at all."""

    calls: tuple[ZoomCall, ...]


@dataclass(frozen=True)
class Answer:
    """The model's final answer: `text` without tags and surrounding white space."""

    text: str


@dataclass(frozen=True)
class Malformed:
    """A turn that cannot be carried out. `detail` tells the model what it wrote."""

    error: CallError
    detail: str


TurnOutcome = ZoomCall | ZoomCalls | Answer | Malformed


def calls_of(outcome: TurnOutcome | None) -> tuple[ZoomCall, ...]:
    """The calls of a turn in order; () if it makes none."""
    if isinstance(outcome, ZoomCalls):
        return outcome.calls
    return (outcome,) if isinstance(outcome, ZoomCall) else ()


@dataclass(frozen=True)
class Visual:
    """Visual tokens that follow each other in the token stream: an image, or frames as video tokens.

    Attributes:
        pts_seconds: the times of its frames; one of an image.
        grid_thw: temporal patches, rows and columns of patches, before the vision tower merges them. A temporal patch
            holds two frames of a video; an image is one.
        offset: index of its first visual token in Trajectory.ids.
        num_tokens: visual tokens that it takes.
        is_video: whether they are video tokens.
        seconds_per_patch: from one temporal patch to the next; 0 if there is one alone.
    """

    pts_seconds: tuple[float, ...]
    grid_thw: tuple[int, int, int]
    offset: int
    num_tokens: int
    is_video: bool = False
    seconds_per_patch: float = 0.0


def shortened(text: str | None, limit: int = 60) -> str | None:
    """The first line of `text`, at most `limit` characters of it, with "…" if anything is left out."""
    if text is None:
        return None
    line = text.strip().partition("\n")[0]
    return line if line == text.strip() and len(line) <= limit else line[: limit - 1] + "…"


STAGES = ("decode", "patches", "vision", "prefill", "generate")


def _rounded(milliseconds: dict[str, float]) -> dict[str, float]:
    return {stage: round(value, 3) for stage, value in milliseconds.items()}


@dataclass
class Turn:
    """One turn of the model, and what it brought.

    Attributes:
        text: what the model wrote.
        outcome: what the text means; None if the turn was cut off.
        num_sampled: tokens that the model wrote.
        num_prefilled: tokens fed to open this turn: the prompt, or the pending token and the tool turn.
        end_seconds: end of the last call after clamping to the video; 0 if nothing was zoomed.
        pts_seconds: times of the frames that the calls brought, one clip after the other.
        clip_frames: how many of them each call brought, if there are several.
        milliseconds: by STAGES. decode, patches, vision and prefill are those of what opened this turn, generate that
            of its own tokens.
        num_reused: of num_prefilled, tokens that were not fed but moved from another session (approximate).
    """

    text: str = ""
    outcome: TurnOutcome | None = None
    num_sampled: int = 0
    num_prefilled: int = 0
    end_seconds: float = 0.0
    pts_seconds: tuple[float, ...] = ()
    clip_frames: tuple[int, ...] = ()
    milliseconds: dict[str, float] = field(default_factory=dict)
    num_reused: int = 0

    @property
    def clips(self) -> list[tuple[ZoomCall, tuple[float, ...]]]:
        """Each call that brought a clip, with the times of its frames."""
        calls, clips, first = calls_of(self.outcome), [], 0
        counts = self.clip_frames or (len(self.pts_seconds),)
        for call, count in zip(calls, counts, strict=True) if calls and self.pts_seconds else ():
            clips.append((call, self.pts_seconds[first : first + count]))
            first += count
        return clips

    def cost_json(self) -> dict[str, Any]:
        """Tokens and milliseconds of opening this turn and of writing it."""
        return {
            "tokens_prefilled": self.num_prefilled,
            "tokens_reused": self.num_reused,
            "milliseconds": _rounded(self.milliseconds),
        }


@dataclass
class Trajectory:
    """A conversation, token for token: what RL trains on, and what the exactness tests replay.

    Attributes:
        question: the text, options included.
        video: what was known of the video.
        ids: the T tokens. The last sampled one was never fed.
        sampled: T times whether the model chose the token.
        logprobs: T natural log-probabilities; 0 for tokens that were not sampled.
        positions: 3 lists of T positions (time, row, column).
        visuals: the images and videos, in the order in which they were seen.
        glance_seconds: times of the glance's frames.
        glance: how they were chosen: "exact" or "keyframe", as `ZoomConfig.glance` says.
        turns: of the model, in order.
        answer: the text of the answer; None if the model gave none.
        answer_is_untagged: whether the answer is a turn without tags, of a model that was not trained for them.
        stop_reason: why the conversation ended; None while it runs.
        protocol: the name of the protocol that it is held in.
    """

    question: str
    video: VideoInfo
    ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    positions: tuple[list[int], list[int], list[int]] = field(default_factory=lambda: ([], [], []))
    visuals: list[Visual] = field(default_factory=list)
    glance_seconds: tuple[float, ...] = ()
    glance: str = "exact"
    turns: list[Turn] = field(default_factory=list)
    answer: str | None = None
    answer_is_untagged: bool = False
    stop_reason: StopReason | None = None
    protocol: str = ""

    @property
    def zooms(self) -> list[Turn]:
        """The turns that brought a clip."""
        return [turn for turn in self.turns if turn.pts_seconds]

    @property
    def calls(self) -> list[ZoomCall]:
        """The calls that brought a clip, in order."""
        return [call for turn in self.zooms for call in calls_of(turn.outcome)]

    @property
    def zoom_spans(self) -> list[tuple[float, float]]:
        """(start, end) of each zoom in seconds, the end clamped to the video."""
        end = self.video.duration_seconds
        return [(call.start_seconds, min(call.end_seconds, end)) for call in self.calls]

    @property
    def is_exact(self) -> bool:
        """Whether every token was fed to the model: False if a clip was reused from another session."""
        return not any(turn.num_reused for turn in self.turns)

    @property
    def num_frames(self) -> int:
        """Frames seen in all: glance and zooms."""
        return len(self.shown_seconds)

    @property
    def shown_seconds(self) -> tuple[float, ...]:
        """Their times, in the order in which they were seen."""
        return tuple(seconds for visual in self.visuals for seconds in visual.pts_seconds)

    def __repr__(self) -> str:
        stop = str(self.stop_reason) if self.stop_reason else None
        return (
            f"Trajectory(question={shortened(self.question)!r}, answer={shortened(self.answer)!r}, "
            f"stop_reason={stop!r}, turns={len(self.turns)}, zooms={len(self.zooms)}, frames={self.num_frames}, "
            f"tokens={len(self.ids)})"
        )

    def to_json(self) -> dict[str, Any]:
        """The summary that `vzoom ask --json` prints. Times are in seconds unless the key says milliseconds.

        The tokens and milliseconds of a zoom are those of the turn that its clip opened.
        """
        opened = dict(zip(map(id, self.turns), self.turns[1:], strict=False))
        return {
            "video": self.video.path,
            "duration_seconds": self.video.duration_seconds,
            "video_backend": self.video.backend,
            "video_notes": list(self.video.notes),
            "question": self.question,
            "protocol": self.protocol,
            "answer": self.answer,
            "answer_is_untagged": self.answer_is_untagged,
            "stop_reason": str(self.stop_reason) if self.stop_reason else None,
            "glance": self.glance,
            "glance_seconds": list(self.glance_seconds),
            "zooms": [
                {
                    "start_seconds": call.start_seconds,
                    "end_seconds": min(call.end_seconds, self.video.duration_seconds),
                    "fps": call.fps,
                    "frames": len(times),
                    "pts_seconds": list(times),
                    # The calls of one turn are fed together: the first carries the cost.
                    **(opened[id(turn)].cost_json() if number == 0 and id(turn) in opened else {}),
                }
                for turn in self.zooms
                for number, (call, times) in enumerate(turn.clips)
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


# ---------------------------------------------------------------- what happens while a conversation runs


@dataclass(frozen=True)
class TextDelta:
    """Text as it is sampled. `request_id` is the one that `Engine.add` gave, in every event."""

    request_id: int
    text: str


@dataclass(frozen=True)
class TurnOpened:
    """What opens a turn was fed: prompt and glance, or a tool turn with its clip, if it has one.

    turn.num_prefilled and the milliseconds of decode, patches, vision and prefill are final.
    """

    request_id: int
    turn: Turn
    clip: Clip | None


@dataclass(frozen=True)
class TurnEnded:
    """The model ended its turn: turn.text and turn.outcome are final. `clip` is what its call brought, if anything."""

    request_id: int
    turn: Turn
    clip: Clip | None


@dataclass(frozen=True)
class Finished:
    """The conversation is over. trajectory.stop_reason says why."""

    request_id: int
    trajectory: Trajectory


@dataclass(frozen=True)
class Failed:
    """There is no conversation: its video cannot be read, its glance does not fit, or something in it was raised.

    Other requests continue.
    """

    request_id: int
    error: Exception


Event = TextDelta | TurnOpened | TurnEnded | Finished | Failed
