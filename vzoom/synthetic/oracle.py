"""A scripted policy that knows the facts of a synthetic video and writes turns in the protocol's strict form.

It looks as a careful viewer would: at the scene that the question names, as much of it as one call can bring, then at
the rest if nothing was seen; then it answers. With `flaw` it first looks in a wrong place, for reflection data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..config import ZoomConfig
from ..protocol import LETTERS, Protocol, glance_timestamps, render_turn, zoom_timestamps
from ..types import Answer, Malformed, ZoomCall
from .questions import Interval, Question
from .spec import SyntheticEvent, SyntheticVideo

Flaw = Literal["none", "shifted", "elsewhere"]
_LEAST_SECONDS = 0.5  # of an event inside a clip: no event is longer, but for those that linger


@dataclass(frozen=True)
class OracleTurn:
    """One turn.

    Args:
        thought: what is written before the action.
        outcome: the action.
        flawed: whether the turn is shown and never learned.
    """

    thought: str
    outcome: ZoomCall | Answer
    flawed: bool = False

    def text(self, protocol: Protocol) -> str:
        """As a model writes it in a protocol."""
        return render_turn(self.thought, self.outcome, protocol)


def oracle_turns(
    video: SyntheticVideo,
    question: Question,
    config: ZoomConfig,
    *,
    max_zooms: int,
    rng: np.random.Generator,
    flaw: Flaw = "none",
) -> list[OracleTurn]:
    """The turns of one conversation; the last one answers. With no zoom left and nothing seen, the oracle guesses.

    Args:
        video: what is asked about.
        question: what is asked.
        config: the limits of the conversation.
        max_zooms: how many of its turns may zoom.
        rng: for guesses and flaws.
        flaw: what is wrong with the first zoom: nothing, it begins too late, or it looks at another scene. Only if
            two zooms or more are allowed.
    """
    turns: list[OracleTurn] = []
    if flaw != "none" and max_zooms > 1:
        call, thought = _flawed_call(video, question, _window_seconds(video, config), flaw, rng)
        turns.append(OracleTurn(thought, call, flawed=True))
    while True:
        calls = [turn.outcome for turn in turns if isinstance(turn.outcome, ZoomCall)]
        turns.append(next_turn(video, question, config, calls, zooms_left=max_zooms - len(turns), rng=rng))
        if isinstance(turns[-1].outcome, Answer):
            return turns


def next_turn(
    video: SyntheticVideo,
    question: Question,
    config: ZoomConfig,
    calls: Sequence[ZoomCall],
    *,
    zooms_left: int,
    rng: np.random.Generator,
) -> OracleTurn:
    """What the oracle writes after these calls, whoever made them: a zoom at what is left to search, or the answer.

    Args:
        video: what is asked about.
        question: what is asked.
        config: the limits of the conversation.
        calls: those that brought a clip, in order.
        zooms_left: how many more zooms are allowed.
        rng: for the guess, if no zoom is left.
    """
    seen = [window for call in calls for window in _seen(video, config, call)]
    if question.family == "count":  # only the whole scene tells that there is no other
        known = _next_window(video, question, seen, video.config.duration_seconds) is None
        shown = _evidence(video, question)
    else:
        glance = glance_timestamps(video.info(), config)
        shown = [first for e in _evidence(video, question) if (first := _first_shown(e, seen, glance)) is not None]
        known = len(shown) == len(question.evidence)
    if known:
        thought = finding_note(shown, question.answer_letter, family=question.family)
        return OracleTurn(thought, Answer(question.answer_letter))
    rest = _next_window(video, question, seen, _window_seconds(video, config))
    if zooms_left <= 0 or rest is None:
        return OracleTurn("Not seen.", Answer(LETTERS[int(rng.integers(len(question.options)))]))
    thought = _plan(video, rest) if not calls else _afterthought(video, question, calls[-1], rest)
    return OracleTurn(thought, ZoomCall(*rest, 1 / video.config.event_seconds))


def _window_seconds(video: SyntheticVideo, config: ZoomConfig) -> float:
    """What one call can bring with one frame per event length, so that no event slips through."""
    return config.zoom_max_frames * video.config.event_seconds


def _seen(video: SyntheticVideo, config: ZoomConfig, call: ZoomCall) -> list[Interval]:
    """What a call shows without a gap: nothing if its frames are further apart than an event is long."""
    times = zoom_timestamps(call, video.info(), config)
    if isinstance(times, Malformed) or call.fps * video.config.event_seconds < 1 - 1e-6:
        return []
    return [(call.start_seconds, min(call.end_seconds, video.config.duration_seconds))]


def _afterthought(video: SyntheticVideo, question: Question, last: ZoomCall, rest: Interval) -> str:
    """What is said about a last clip that was not enough: that it was elsewhere, or what it showed."""
    at = min(last.start_seconds, video.config.duration_seconds - 1e-6)
    scene = next(s for s in video.scenes if s.start_seconds <= at < s.end_seconds)
    start, end = next((w for w in question.search if w[0] <= rest[0] < w[1]), question.search[0])
    if not start <= scene.start_seconds < end:
        return f"That is {scene.colour}. {_plan(video, (start, end))}"
    return _report(video, (last.start_seconds, last.end_seconds))


def clock(seconds: float) -> str:
    """A time as the oracle writes it: 12, 12.5."""
    return f"{seconds:.2f}".rstrip("0").rstrip(".")


def _evidence(video: SyntheticVideo, question: Question) -> list[SyntheticEvent]:
    return [e for e in video.events if (e.start_seconds, e.end_seconds) in question.evidence]


def _first_shown(event: SyntheticEvent, seen: list[Interval], glance: list[float]) -> SyntheticEvent | None:
    """The event, beginning when a clip or a glance frame first showed it; None if neither did."""
    times = [t for t in glance if event.start_seconds <= t < event.end_seconds]
    for start, end in seen:
        first, last = max(start, event.start_seconds), min(end, event.end_seconds)
        if last - first >= min(event.end_seconds - event.start_seconds, _LEAST_SECONDS) - 1e-6:
            times.append(first)
    return replace(event, start_seconds=min(times)) if times else None


def _next_window(video: SyntheticVideo, question: Question, seen: list[Interval], window: float) -> Interval | None:
    """The first part of what must be searched that was not seen yet, at most `window` seconds long."""
    if question.family in ("first", "order"):  # searching the whole video would take more calls than there are
        for start, end in question.evidence:
            if not any(s <= start and end <= e for s, e in seen):
                scene = next(s for s in video.scenes if s.start_seconds <= start < s.end_seconds)
                begin = max(scene.start_seconds, min(start - window / 2, scene.end_seconds - window))
                return begin, min(begin + window, scene.end_seconds)
        return None
    for start, end in question.search:
        at = start
        for s, e in sorted(seen):
            if s <= at < e:
                at = e
        if at < end:
            stop = min([at + window, end, *(s for s, _ in seen if s > at)])
            return at, stop
    return None


def _report(video: SyntheticVideo, window: Interval) -> str:
    """What a clip showed that was not enough to answer."""
    start, end = window
    shown = [e for e in video.events if start <= e.start_seconds < end]
    return f"{sightings(shown)}." if shown else nothing_note(start, end)


def nothing_note(start_seconds: float, end_seconds: float) -> str:
    """What the oracle says of a clip without a shape, from `start_seconds` to `end_seconds`."""
    return f"No shape from {clock(start_seconds)} to {clock(end_seconds)}."


def _plan(video: SyntheticVideo, window: Interval) -> str:
    scene = next(s for s in video.scenes if s.start_seconds <= window[0] < s.end_seconds)
    return scene_note(scene.colour, scene.start_seconds, scene.end_seconds)


def scene_note(colour: str, start_seconds: float, end_seconds: float) -> str:
    """What the oracle says of the scene of a colour, from `start_seconds` to `end_seconds`, before it zooms there."""
    return f"The {colour} scene is from {clock(start_seconds)} to {clock(end_seconds)}."


def sightings(events: Sequence[SyntheticEvent]) -> str:
    """What the oracle says of the shapes it saw. Times first: finding an event is one step, naming it another."""
    return "I see " + ", ".join(f"at {e.start_seconds:.2f}s a {e.shape}" for e in events)


def finding_note(events: Sequence[SyntheticEvent], letter: str, *, family: str = "which") -> str:
    """What the oracle says before its answer.

    Args:
        events: the shapes that it saw.
        letter: of the option that follows from them.
        family: of the question; `which` has a wording of its own.
    """
    if family == "which":
        (event,) = events
        return f"I see a {event.shape} ({letter}) at {event.start_seconds:.2f}s."  # a short way from shape to letter
    return f"{sightings(events)}: {letter}."


def _flawed_call(
    video: SyntheticVideo, question: Question, window: float, flaw: Flaw, rng: np.random.Generator
) -> tuple[ZoomCall, str]:
    """A call that looks in a wrong place, and its thought."""
    start, end = question.search[0]
    target = next(s for s in video.scenes if s.start_seconds <= start < s.end_seconds)
    fps = 1 / video.config.event_seconds
    if flaw == "elsewhere":
        others = [s for s in video.scenes if s is not target]
        scene = others[int(rng.integers(len(others)))]
        call = ZoomCall(scene.start_seconds, min(scene.start_seconds + window, scene.end_seconds), fps)
        return call, scene_note(target.colour, scene.start_seconds, scene.end_seconds)
    step = video.config.scene_step_seconds
    shift = step * int(rng.integers(1, 3))
    late = min(start + shift, end - step)
    return ZoomCall(late, min(late + window, end), fps), scene_note(target.colour, late, end)
