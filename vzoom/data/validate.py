"""Whether the fields of a record agree with each other and with the grammar. No video and no tokenizer is needed."""

from __future__ import annotations

from itertools import pairwise

from ..protocol import cut_turn, parse_turn
from ..types import Answer, Malformed, StopReason, ZoomCall, ZoomCalls, calls_of
from .record import Record, RecordedTurn, carried_out

_CUT = (StopReason.TURN_TOKENS, StopReason.TOTAL_TOKENS)  # reasons that leave the last turn unfinished
_SLACK_SECONDS = 1e-3  # a container's clock rounds


class InvalidRecord(ValueError):
    """A record, or a file of records, that is not what it should be."""


def check(record: Record) -> None:
    """Compare the fields of a record with each other and with the grammar.

    Raises:
        InvalidRecord: with the turn and what is wrong with it.
    """
    _want(bool(record.id), "the id is empty")
    _want(bool(record.question.strip()), "the question is empty")
    if not record.turns:
        empty = not record.glance_seconds and record.stop_reason is None and record.ids is None
        _want(empty and record.sampled is None, "there are no turns, but glance_seconds, stop_reason or ids")
        return
    limit = record.config.max_zooms + 1
    _want(len(record.turns) <= limit, f"{len(record.turns)} turns, max_zooms {record.config.max_zooms} allows {limit}")
    _times(record, record.glance_seconds, "glance_seconds")
    has_glance = record.config.protocol.glance.rule != "none"
    _want(bool(record.glance_seconds) == has_glance, "glance_seconds is empty" if has_glance else "a glance, but none")
    most = record.config.glance_max_frames
    _want(len(record.glance_seconds) <= most, f"glance of {len(record.glance_seconds)} frames, the limit is {most}")
    for number, turn in enumerate(record.turns):
        try:
            _turn(record, number, turn)
        except InvalidRecord as error:
            raise InvalidRecord(f"turn {number + 1}: {error}") from None
    num_frames = len(record.glance_seconds) + sum(len(turn.pts_seconds) for turn in record.turns)
    _want(num_frames <= record.config.max_frames, f"{num_frames} frames, the limit is {record.config.max_frames}")
    _stop(record)
    _tokens(record)


def _want(condition: bool, problem: str) -> None:
    if not condition:
        raise InvalidRecord(problem)


def _times(record: Record, seconds: tuple[float, ...], name: str) -> None:
    _want(all(a < b for a, b in pairwise(seconds)), f"{name} do not increase")
    if seconds:
        end = record.video.duration_seconds
        inside = seconds[0] >= -_SLACK_SECONDS and seconds[-1] <= end + _SLACK_SECONDS
        _want(inside, f"{name} {seconds[0]:g} to {seconds[-1]:g} are outside the video's {end:g} s")


def _turn(record: Record, number: int, turn: RecordedTurn) -> None:
    is_last = number + 1 == len(record.turns)
    protocol = record.config.protocol
    read = parse_turn(turn.text, protocol, video_fps=record.video.fps)
    match turn.outcome:
        case Answer() | ZoomCall() | ZoomCalls():
            _want(turn.outcome == read, f"the outcome is {turn.outcome}, but the text reads as {read}")
            _want(is_last or not isinstance(turn.outcome, Answer), "an answer, but another turn follows")
        case Malformed(error=error):
            same = read.error == error if isinstance(read, Malformed) else bool(calls_of(read))
            _want(same, f"the outcome is {error}, but the text reads as {read}")
        case None:
            cut = is_last and record.stop_reason in _CUT
            _want(cut, f"no outcome, but only a last turn that a limit ({', '.join(_CUT)}) cut short has none")
            _want(record.ids is not None, "a turn cut short is known by its tokens only, and there are no ids")
    done = carried_out(record.turns, number)
    _want(done or turn.flawed, "it was not carried out, so it must be marked flawed")
    brought = done and bool(calls_of(turn.outcome))
    _want(bool(turn.pts_seconds) == brought, f"{len(turn.pts_seconds)} frames came with {turn.outcome}")
    counts, most = turn.clip_frames or (len(turn.pts_seconds),), record.config.zoom_max_frames
    _want(sum(counts) == len(turn.pts_seconds), f"clips of {counts} frames, but {len(turn.pts_seconds)} times")
    _want(not brought or len(counts) == len(calls_of(turn.outcome)), f"clips of {counts} frames of {turn.outcome}")
    first = 0
    for count in counts:
        _times(record, turn.pts_seconds[first : first + count], "pts_seconds")
        _want(count <= most, f"a clip of {count} frames, the limit is {most}")
        first += count
    if record.ids is None:
        rest = turn.text[len(cut_turn(turn.text, protocol) or turn.text) :]
        _want(not rest, f"the text continues after its end: {rest[:40]!r}")


def _stop(record: Record) -> None:
    reason, last = record.stop_reason, record.turns[-1].outcome
    _want(reason is not None, "there are turns, but no stop_reason")
    _want(reason is not StopReason.CANCELLED, "a conversation that was cancelled is no data")
    answered = isinstance(last, Answer)
    _want(answered == (reason is StopReason.ANSWERED), f"stop_reason is {reason}, the last outcome {last}")


def _tokens(record: Record) -> None:
    ids, sampled = record.ids, record.sampled
    _want((ids is None) == (sampled is None), "of ids and sampled one is missing")
    if ids is None or sampled is None:
        return
    _want(len(ids) == len(sampled), f"{len(ids)} ids and {len(sampled)} marks in sampled")
    num_runs = sum(now and not before for before, now in pairwise((False, *sampled)))
    _want(num_runs == len(record.turns), f"{num_runs} runs of sampled tokens for {len(record.turns)} turns")
    _want(bool(sampled[-1]), "the last token was not sampled")
