"""Verdicts -> accuracy with its interval, in all, by category and by duration.

An item is scored where its answer was looked at or was missing: right, wrong, unanswered, unparsable; the last two earn
nothing, and are counted apart. An item without a verdict (unjudged, missing_video) is no part of the accuracy: what it
might have been is said by `Summary.bounds`.
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
class Outcome:
    """An item's verdict and what it is grouped by."""

    id: str
    categories: tuple[str, ...]
    duration_bucket: str
    verdict: Verdict

    @classmethod
    def of(cls, item: Item, verdict: Verdict) -> Outcome:
        return cls(item.id, item.categories, item.duration_bucket, verdict)

    @property
    def is_scored(self) -> bool:
        return self.verdict.kind in SCORED


@dataclass(frozen=True)
class Summary:
    """Of a set of items. accuracy: mean points of the scored ones, from 0 to 1; None where none was scored."""

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
        """Mean points of those answers that could be read; None where there was none."""
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
    """Of a run. headline: the figure as the benchmark's authors average it; None where nothing was scored."""

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


def score_run(outcomes: Sequence[Outcome], *, headline: Headline, seed: int = 0) -> Scores:
    """headline: that of the benchmark. An item of several categories counts in each. seed: of the bootstrap.

    ValueError where there is no item, or an id appears twice.
    """
    _check(outcomes)
    overall = summarise(outcomes, seed=seed)
    categories = _grouped(outcomes, lambda outcome: outcome.categories)
    return Scores(
        overall,
        overall.accuracy if headline == "items" else mean_of_categories(categories, seed=seed),
        {name: summarise(group, seed=seed) for name, group in categories.items()},
        {
            name: summarise(group, seed=seed)
            for name, group in _grouped(outcomes, lambda outcome: (outcome.duration_bucket,)).items()
            if name
        },
    )


def summarise(outcomes: Sequence[Outcome], *, seed: int = 0) -> Summary:
    """ValueError where there is no item."""
    if not outcomes:
        raise ValueError("there is no item to summarise")
    counted = Counter(outcome.verdict.kind for outcome in outcomes)
    points = _points(outcomes)
    return Summary(
        {kind: counted[kind] for kind in KINDS},
        interval([points], seed=seed) if points else None,
        sum(points),
    )


def across_runs(runs: Sequence[Sequence[Outcome]], *, seed: int = 0) -> Estimate:
    """The accuracy of several runs that differ in their seeds, with an interval over runs and items.

    ValueError where a run has no scored item.
    """
    for run in runs:
        _check(run)
    return interval([_points(run) for run in runs], seed=seed)


def mean_of_categories(
    categories: Mapping[str, Sequence[Outcome]], *, seed: int = 0, resamples: int = 10_000
) -> Estimate | None:
    """The mean of the categories' accuracies. Its interval: items are drawn again within each category, which is the
    same set in every resample. None where a category has no scored item."""
    points = [_points(group) for group in categories.values()]
    if not points or not all(points):
        return None
    rng = np.random.default_rng(seed)
    means = np.mean([_resampled_means(np.asarray(p), resamples, rng) for p in points], axis=0)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(np.mean([np.mean(p) for p in points])), float(low), float(high))


def _resampled_means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each distinct value is drawn, with replacement, is multinomial."""
    distinct, counts = np.unique(values, return_counts=True)
    return rng.multinomial(len(values), counts / len(values), size=resamples) @ distinct / len(values)


def _points(outcomes: Iterable[Outcome]) -> list[float]:
    return [outcome.verdict.points for outcome in outcomes if outcome.is_scored]


def _grouped(outcomes: Iterable[Outcome], names: Callable[[Outcome], tuple[str, ...]]) -> dict[str, list[Outcome]]:
    """In the order in which the groups first appear."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        for name in names(outcome):
            groups.setdefault(name, []).append(outcome)
    return groups


def _check(outcomes: Sequence[Outcome]) -> None:
    if not outcomes:
        raise ValueError("the run has no item")
    twice = [id for id, count in Counter(outcome.id for outcome in outcomes).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} ids appear twice in the run, {twice[0]!r} among them")


def _json(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
