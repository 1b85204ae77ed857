"""One conversation as data: what was asked about which video, what was written, and what came back.

Frames are not stored: the video is named, with a hash of its bytes, and its frames are cut again when they are needed.
Token masks are not stored either: `tokenize_record` derives them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ..config import ZoomConfig
from ..protocol import Reference
from ..types import Answer, CallError, Malformed, StopReason, Trajectory, TurnOutcome, VideoInfo, calls_of
from ..video import is_url

Source = Literal["oracle", "expert", "student", "reflection"]  # who wrote a turn; reflection: an expert who corrects
SOURCES: tuple[Source, ...] = get_args(Source)

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class VideoRef:
    """A video by reference.

    Args:
        path: a file or a URL.
        sha256: of the file's bytes, 64 hex digits; None for a URL, whose bytes nobody has.
        duration_seconds: of the video.
        fps: frames per second.
        width: of a frame, in pixels.
        height: of a frame, in pixels.
        max_fps: as in `VideoInfo`; None if the rate is constant.

    Raises:
        ValueError: a value is out of range, or a file has no hash.
    """

    path: str
    sha256: str | None
    duration_seconds: float
    fps: float
    width: int
    height: int
    max_fps: float | None = None

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("the video has no path")
        for name in ("duration_seconds", "fps", "width", "height"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} of the video must be above 0, got {value!r}")
        if self.max_fps is not None and not (math.isfinite(self.max_fps) and self.max_fps > 0):
            raise ValueError(f"max_fps of the video must be above 0, got {self.max_fps!r}")
        if self.sha256 is None:
            if not is_url(self.path):
                raise ValueError(f"video {self.path} has no sha256: only a URL may lack it")
        elif not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 of the video must be 64 hex digits, got {self.sha256!r}")

    @property
    def info(self) -> VideoInfo:
        """The same without the hash, as the protocol takes it."""
        return VideoInfo(self.path, self.duration_seconds, self.fps, self.width, self.height, max_fps=self.max_fps)


@dataclass(frozen=True)
class RecordedTurn:
    """What the model wrote in one turn, and what became of it.

    Args:
        text: of the turn.
        source: who wrote it.
        outcome: what the text asks for or why it failed; None if a limit cut the turn short.
        flawed: whether it is shown and never learned.
        pts_seconds: times of the frames that the calls brought, one clip after the other.
        clip_frames: how many of them each call brought, if there are several.
    """

    text: str
    source: Source
    outcome: TurnOutcome | None
    flawed: bool
    pts_seconds: tuple[float, ...] = ()
    clip_frames: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {self.source!r}")


@dataclass(frozen=True)
class Record:
    """One conversation; without turns it is only a question, as RL needs it. `check` compares its fields.

    Args:
        id: unlike that of any other record of the set.
        question: the whole text that the model is given, options included.
        options: of a multiple-choice question, without labels; () for an open one.
        reference: the right answer, a letter if there are options; None if nobody knows.
        video: what is asked about.
        config: the limits of the conversation.
        glance_seconds: times of the glance's frames.
        turns: what the model wrote.
        stop_reason: why the conversation ended.
        ids: its tokens, if a model of ours held it.
        sampled: which of `ids` the model chose; None if `ids` is.
    """

    id: str
    question: str
    options: tuple[str, ...]
    reference: str | None
    video: VideoRef
    config: ZoomConfig
    glance_seconds: tuple[float, ...] = ()
    turns: tuple[RecordedTurn, ...] = ()
    stop_reason: StopReason | None = None
    ids: tuple[int, ...] | None = None
    sampled: tuple[bool, ...] | None = None

    @property
    def answer(self) -> str | None:
        """The text of the last turn's answer; None if there is none."""
        outcome = self.turns[-1].outcome if self.turns else None
        return outcome.text if isinstance(outcome, Answer) else None


def reference_of(record: Record) -> Reference:
    """The right answer of a question, to compare answers with.

    Raises:
        ValueError: the record has none, or one that is no letter of its options.
    """
    if record.reference is None:
        raise ValueError(f"question {record.id} has no reference answer: nothing can be compared with it")
    try:
        return Reference(record.question, record.reference, record.options)
    except ValueError as error:
        raise ValueError(f"question {record.id}: {error}") from None


def carried_out(turns: Sequence[RecordedTurn], number: int) -> bool:
    """Whether turn `number` did what it set out to do: an answer, or a call that another turn follows."""
    outcome = turns[number].outcome
    asked = isinstance(outcome, Malformed) and outcome.error is CallError.FRAME_ASKED
    return isinstance(outcome, Answer) or ((asked or bool(calls_of(outcome))) and number + 1 < len(turns))


def from_trajectory(
    trajectory: Trajectory,
    config: ZoomConfig,
    *,
    id: str,
    video: VideoRef,
    source: Source = "student",
    reference: str | None = None,
    options: Sequence[str] = (),
) -> Record:
    """A conversation that our engine held, token for token. Turns that could not be carried out are marked flawed.

    Raises:
        ValueError: the conversation is not finished, or it reused clips of another session.
    """
    if trajectory.stop_reason in (None, StopReason.CANCELLED):
        raise ValueError(f"conversation {id} is not finished: stop_reason {trajectory.stop_reason}")
    if not trajectory.is_exact:
        raise ValueError(f"conversation {id} reused clips of another session, which is approximate: not for training")
    bare = [RecordedTurn(t.text, source, t.outcome, False, t.pts_seconds, t.clip_frames) for t in trajectory.turns]
    turns = [replace(turn, flawed=not carried_out(bare, number)) for number, turn in enumerate(bare)]
    return Record(
        id=id,
        question=trajectory.question,
        options=tuple(options),
        reference=reference,
        video=video,
        config=config,
        glance_seconds=trajectory.glance_seconds,
        turns=tuple(turns),
        stop_reason=trajectory.stop_reason,
        ids=tuple(trajectory.ids),
        sampled=tuple(trajectory.sampled),
    )
