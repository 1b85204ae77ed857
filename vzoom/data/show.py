"""A record as lines of text: what it is about, and every token with its mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..protocol import Vocabulary
from ..types import Malformed, ZoomCall, ZoomCalls
from .record import Record, RecordedTurn
from .tokens import tokenize_record

Mask = Literal["learned", "shown", "fed"]
MARKS: dict[Mask, str] = {"learned": "+", "shown": "-", "fed": "."}
LEGEND = "+ learned   - sampled, but in a flawed turn   . fed: prompt, frames, tool turns, end of turn after a call"


@dataclass(frozen=True)
class TokenLine:
    """One token, or a run of `count` visual tokens of one frame or one video."""

    index: int
    id: int
    mask: Mask
    text: str
    count: int = 1

    def __str__(self) -> str:
        times = f" x{self.count}" if self.count > 1 else ""
        return f"{self.index:6d} {MARKS[self.mask]} {self.id:6d} {self.text!r}{times}"


def token_lines(record: Record, vocabulary: Vocabulary, *, every_visual: bool = False) -> Iterator[TokenLine]:
    """Every token of a record, in order, with its mask.

    Args:
        record: with turns.
        vocabulary: of the model that is to learn.
        every_visual: a line per visual token; else one line per frame or video.

    Raises:
        InvalidRecord: the record has no turns, or is not of this vocabulary.
    """
    tokens = tokenize_record(record, vocabulary)
    trajectory = tokens.trajectory
    frames = {visual.offset: visual for visual in trajectory.visuals}
    skip_to = 0
    for i, (token, sampled, learned) in enumerate(zip(trajectory.ids, trajectory.sampled, tokens.learned, strict=True)):
        if i < skip_to:
            continue
        mask: Mask = "learned" if learned else "shown" if sampled else "fed"
        text = vocabulary.codec.decode([token], special=True)
        count = 1
        if not every_visual and i in frames:
            count = frames[i].num_tokens
            skip_to = i + count
            times = frames[i].pts_seconds
            of = (
                f"the frame at {times[0]:.2f} s" if len(times) == 1 else f"{len(times)} frames from {times[0]:.2f} s on"
            )
            text = f"{text} of {of}"
        yield TokenLine(i, token, mask, text, count)


def head_lines(record: Record) -> Iterator[str]:
    """What the record is about, and its turns, one line each."""
    video = record.video
    yield f"record    {record.id}"
    yield f"video     {video.path} ({video.duration_seconds:.2f} s, {video.width} x {video.height})"
    yield f"question  {' '.join(record.question.split())}"
    if record.options:
        yield f"options   {', '.join(record.options)}"
    yield f"reference {record.reference if record.reference is not None else '(none)'}"
    if not record.turns:
        yield "turns     none: a question for RL"
        return
    yield f"glance    {len(record.glance_seconds)} frames"
    for number, turn in enumerate(record.turns):
        yield f"turn {number + 1}    {turn.source}{', flawed' if turn.flawed else ''}: {_outcome(turn)}"
    yield f"stopped   {record.stop_reason}"


def _outcome(turn: RecordedTurn) -> str:
    outcome = turn.outcome
    match outcome:
        case None:
            return "cut short"
        case ZoomCall():
            call = f"zoom {outcome.start_seconds:g} s to {outcome.end_seconds:g} s at {outcome.fps:g} fps"
            return f"{call}, {len(turn.pts_seconds)} frames" if turn.pts_seconds else f"{call}, not carried out"
        case ZoomCalls():
            spans = ", ".join(f"{call.start_seconds:g} s to {call.end_seconds:g} s" for call in outcome.calls)
            return f"zooms {spans}, {len(turn.pts_seconds)} frames"
        case Malformed():
            return f"{outcome.error}: {outcome.detail}"
        case _:
            return f"answer {outcome.text!r}"
