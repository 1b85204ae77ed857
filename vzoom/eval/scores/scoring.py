"""Verdicts -> accuracy with its interval, in all, by category and by duration.

An item is scored if it was asked and needs no missing judge: right, wrong, unanswered, unparsable. The last two earn
nothing, and are counted apart. An item without a verdict (unjudged, missing_video, failed) is no part of the accuracy;
`Summary.bounds` says what it might have added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..item import KINDS, Headline, Item, Verdict, VerdictKind
from .intervals import Estimate, interval

SCORED: tuple[VerdictKind, ...] = ("right", "wrong", "unanswered", "unparsable")


@dataclass(frozen=True)
class ItemVerdict:
    """An item's verdict and what it is grouped by."""

    id: str
    categories: tuple[str, ...]
    duration_bucket: str
    verdict: Verdict

    @classmethod
    def of(cls, item: Item, verdict: Verdict) -> ItemVerdict:
        """The verdict on `item`."""
        return cls(item.id, item.categories, item.duration_bucket, verdict)

    @property
    def is_scored(self) -> bool:
        """Whether it is part of the accuracy."""
        return self.verdict.kind in SCORED


@dataclass(frozen=True)
class Summary:
    """Of a set of items.

    Args:
        counts: items by kind of verdict.
        accuracy: mean points of the scored ones, from 0 to 1; None if none was scored.
        total_points: of the scored ones.
    """

    counts: Mapping[VerdictKind, int]
    accuracy: Estimate | None
    total_points: float

    @property
    def num_items(self) -> int:
        return sum(self.counts.values())

    @property
    def num_scored(self) -> int:
        return sum(self.counts[kind] for kind in SCORED)

    @property
    def of_read(self) -> float | None:
        """Mean points of the answers that could be read; None if there was none."""
        read = self.counts["right"] + self.counts["wrong"]
        return self.total_points / read if read else None

    @property
    def bounds(self) -> tuple[float, float]:
        """What the accuracy over all items would be if every item without a verdict were wrong, and if right."""
        missing = self.num_items - self.num_scored
        return self.total_points / self.num_items, (self.total_points + missing) / self.num_items

    def to_json(self) -> dict[str, Any]:
        return {
            "items": self.num_items,
            "scored": self.num_scored,
            **{kind: self.counts[kind] for kind in KINDS},
            "accuracy": _json(self.accuracy),
            "accuracy_of_read": self.of_read,
            "bounds": list(self.bounds),
        }


@dataclass(frozen=True)
class Scores:
    """Of a run. headline: the figure as the benchmark's authors average it; None if nothing was scored."""

    overall: Summary
    headline: Estimate | None
    by_category: Mapping[str, Summary]
    by_duration: Mapping[str, Summary]

    def to_json(self) -> dict[str, Any]:
        return {
            "headline": _json(self.headline),
            "overall": self.overall.to_json(),
            "by_category": {name: summary.to_json() for name, summary in self.by_category.items()},
            "by_duration": {name: summary.to_json() for name, summary in self.by_duration.items()},
        }


def score_run(verdicts: Sequence[ItemVerdict], *, headline: Headline, seed: int = 0) -> Scores:
    """The scores of a run. An item of several categories counts in each.

    Args:
        verdicts: one per item.
        headline: of the benchmark: what is averaged.
        seed: of the bootstrap.

    Raises:
        ValueError: there is no item, or an id appears twice.
    """
    _check(verdicts)
    overall = summarise(verdicts, seed=seed)
    categories = _grouped(verdicts, lambda one: one.categories)
    return Scores(
        overall,
        overall.accuracy if headline == "items" else mean_of_categories(categories, seed=seed),
        {name: summarise(group, seed=seed) for name, group in categories.items()},
        {
            name: summarise(group, seed=seed)
            for name, group in _grouped(verdicts, lambda one: (one.duration_bucket,)).items()
            if name
        },
    )


def summarise(verdicts: Sequence[ItemVerdict], *, seed: int = 0) -> Summary:
    """Counts and accuracy of a set of items. ValueError if it is empty."""
    if not verdicts:
        raise ValueError("there is no item to summarise")
    counted = Counter(one.verdict.kind for one in verdicts)
    points = _points(verdicts)
    return Summary(
        {kind: counted[kind] for kind in KINDS},
        interval([points], seed=seed) if points else None,
        sum(points),
    )


def mean_of_categories(
    categories: Mapping[str, Sequence[ItemVerdict]], *, seed: int = 0, resamples: int = 10_000
) -> Estimate | None:
    """The mean of the categories' accuracies; None if a category has no scored item.

    Its interval: items are drawn again within each category, and every resample has all categories.
    """
    points = [_points(group) for group in categories.values()]
    if not points or not all(points):
        return None
    rng = np.random.default_rng(seed)
    means = np.mean([_resampled_means(np.asarray(p), resamples, rng) for p in points], axis=0)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(np.mean([np.mean(p) for p in points])), float(low), float(high))


def _resampled_means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each distinct value is drawn, with replacement, has a multinomial distribution."""
    distinct, counts = np.unique(values, return_counts=True)
    return rng.multinomial(len(values), counts / len(values), size=resamples) @ distinct / len(values)


def _points(verdicts: Iterable[ItemVerdict]) -> list[float]:
    return [one.verdict.points for one in verdicts if one.is_scored]


def _grouped(
    verdicts: Iterable[ItemVerdict], names: Callable[[ItemVerdict], tuple[str, ...]]
) -> dict[str, list[ItemVerdict]]:
    """In the order in which the groups first appear."""
    groups: dict[str, list[ItemVerdict]] = {}
    for one in verdicts:
        for name in names(one):
            groups.setdefault(name, []).append(one)
    return groups


def _check(verdicts: Sequence[ItemVerdict]) -> None:
    if not verdicts:
        raise ValueError("the run has no item")
    twice = [id for id, count in Counter(one.id for one in verdicts).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} ids appear twice in the run, {twice[0]!r} among them")


def _json(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
