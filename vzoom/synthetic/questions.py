"""Questions about a synthetic video, with the answer and the seconds that prove it.

Families: `which` shape flashes in the scene of a colour (four options) · `first`, which of two shapes comes first
(two) · `count`, how many shapes flash in a scene (four) · `order`, does a shape come before or after a scene (two).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..protocol import LETTERS
from .families import FAMILIES
from .spec import SHAPES, SyntheticConfig, SyntheticEvent, SyntheticVideo

Interval = tuple[float, float]
_MOST_OPTIONS = 4


@dataclass(frozen=True)
class Question:
    """One multiple-choice question.

    Args:
        text: all that the model is given, options included.
        options: without their letters.
        answer_letter: of the right option.
        evidence: every interval [start, end), in seconds, that must be seen to know the answer.
        search: the intervals in which a viewer who read the question looks for it.
        family: see `FAMILIES`.
        chance: the accuracy of guessing, from 0 to 1.
    """

    text: str
    options: tuple[str, ...]
    answer_letter: str
    evidence: tuple[Interval, ...]
    search: tuple[Interval, ...]
    family: str
    chance: float


def config_for(family: str, config: SyntheticConfig | None = None) -> SyntheticConfig:
    """The videos that a family asks about: `count` needs scenes with several events, the others one event per scene.

    Args:
        family: see `FAMILIES`.
        config: taken as it is; None is the family's default.

    Raises:
        ValueError: there is no such family.
    """
    _maker(family)
    if config is not None:
        return config
    return replace(SyntheticConfig(), events_per_scene=(1, _MOST_OPTIONS)) if family == "count" else SyntheticConfig()


def ask_questions(video: SyntheticVideo, family: str, seed: int) -> Question:
    """Draw one question about a video.

    Args:
        video: what is asked about.
        family: see `FAMILIES`.
        seed: of the draw.

    Raises:
        ValueError: there is no such family, or the video allows no question of it.
    """
    return ask(video, family, np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,))))


def ask(video: SyntheticVideo, family: str, rng: np.random.Generator) -> Question:
    """Like `ask_questions`, but drawn from a generator.

    Args:
        video: what is asked about.
        family: see `FAMILIES`.
        rng: draws the question.

    Raises:
        ValueError: there is no such family, or the video allows no question of it.
    """
    return _maker(family)(video, rng)


def is_hit(evidence: Sequence[Interval], pts_seconds: Sequence[float]) -> bool:
    """Whether each interval of the evidence holds a frame. A right answer without this was luck.

    Args:
        evidence: intervals [start, end) in seconds.
        pts_seconds: times of the frames that were shown.
    """
    slack = 1e-3  # a container's clock rounds timestamps
    return all(any(start - slack <= t < end - slack for t in pts_seconds) for start, end in evidence)


def _which(video: SyntheticVideo, rng: np.random.Generator) -> Question:
    numbers = [i for i in range(len(video.scenes)) if len(video.events_in(i)) == 1]
    if not numbers:
        raise ValueError("`which` needs a scene with exactly one event: lower events_per_scene")
    number = int(rng.choice(numbers))
    event = video.events_in(number)[0]
    seen = sorted({e.shape for e in video.events} - {event.shape})
    wrong = [str(s) for s in rng.permutation(seen)[: video.config.distractors]] if seen else []
    unseen = [s for s in rng.permutation(SHAPES) if s != event.shape and s not in wrong]
    wrong += [str(s) for s in unseen][: _MOST_OPTIONS - 1 - len(wrong)]
    scene = video.scenes[number]
    return _question(
        "which",
        f"Which shape flashes in the {scene.colour} scene?",
        [str(s) for s in rng.permutation([event.shape, *wrong])],
        event.shape,
        [event],
        [(scene.start_seconds, scene.end_seconds)],
    )


def _first(video: SyntheticVideo, rng: np.random.Generator) -> Question:
    once = _shown_once(video)
    if len(once) < 2:
        raise ValueError("`first` needs two shapes that are shown exactly once")
    pair = [once[i] for i in rng.choice(len(once), size=2, replace=False)]
    earlier = min(pair, key=lambda e: e.start_seconds)
    shapes = [e.shape for e in pair]
    return _question(
        "first", "Which shape flashes first?", shapes, earlier.shape, pair, [(0.0, video.config.duration_seconds)]
    )


def _count(video: SyntheticVideo, rng: np.random.Generator) -> Question:
    numbers = [i for i in range(len(video.scenes)) if 1 <= len(video.events_in(i)) <= _MOST_OPTIONS]
    if not numbers:
        raise ValueError(f"`count` needs a scene with 1 to {_MOST_OPTIONS} events")
    number = int(rng.choice(numbers))
    events, scene = video.events_in(number), video.scenes[number]
    options = [str(n + 1) for n in range(_MOST_OPTIONS)]
    text = f"How many shapes flash in the {scene.colour} scene?"
    return _question("count", text, options, str(len(events)), events, [(scene.start_seconds, scene.end_seconds)])


def _order(video: SyntheticVideo, rng: np.random.Generator) -> Question:
    answer = ("before", "after")[int(rng.integers(2))]
    pairs = [
        (event, scene)
        for event in _shown_once(video)
        for number, scene in enumerate(video.scenes)
        if (event.scene < number if answer == "before" else event.scene > number)
    ]
    if not pairs:
        raise ValueError("`order` needs two scenes and a shape that is shown exactly once")
    event, scene = pairs[int(rng.integers(len(pairs)))]
    text = f"Does the {event.shape} flash before or after the {scene.colour} scene?"
    return _question("order", text, ["before", "after"], answer, [event], [(0.0, video.config.duration_seconds)])


_MAKERS = dict(zip(FAMILIES, (_which, _first, _count, _order), strict=True))


def _maker(family: str) -> Callable[[SyntheticVideo, np.random.Generator], Question]:
    if family not in _MAKERS:
        raise ValueError(f"unknown family {family!r}: choose one of {', '.join(FAMILIES)}")
    return _MAKERS[family]


def _shown_once(video: SyntheticVideo) -> list[SyntheticEvent]:
    counts = Counter(event.shape for event in video.events)
    return [event for event in video.events if counts[event.shape] == 1]


def _question(
    family: str,
    ask_text: str,
    options: list[str],
    answer: str,
    events: Sequence[SyntheticEvent],
    search: list[Interval],
) -> Question:
    lines = [f"{letter}: {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return Question(
        text="\n".join([ask_text, *lines]),
        options=tuple(options),
        answer_letter=LETTERS[options.index(answer)],
        evidence=tuple((e.start_seconds, e.end_seconds) for e in events),
        search=tuple(search),
        family=family,
        chance=1 / len(options),
    )
