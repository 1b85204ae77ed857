"""Whether one run is better than another on the same items: paired tests.

McNemar's test, exact: of the items that one run got right and the other did not, each run has as many as a fair coin
gives it (McNemar 1947; the two-sided binomial test). Beside it the difference of the means with its bootstrap
interval, over pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .intervals import Estimate, interval
from .scoring import Outcome


@dataclass(frozen=True)
class Comparison:
    """second against first. difference: second's mean points minus first's, over pairs. only_first, only_second: pairs
    that only one of them got right. p_value: McNemar's. num_left_out: items without a partner that was scored."""

    num_pairs: int
    both_right: int
    only_first: int
    only_second: int
    neither_right: int
    difference: Estimate
    p_value: float
    num_left_out: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(first: Sequence[Outcome], second: Sequence[Outcome], *, seed: int = 0) -> Comparison:
    """Of items with the same id that both runs scored. ValueError where there is none, or an id appears twice."""
    pairs = _pairs(first, second)
    if not pairs:
        raise ValueError("the runs share no scored item: are they of the same benchmark?")
    table = [(a.verdict.kind == "right", b.verdict.kind == "right") for a, b in pairs]
    only_first, only_second = table.count((True, False)), table.count((False, True))
    return Comparison(
        num_pairs=len(pairs),
        both_right=table.count((True, True)),
        only_first=only_first,
        only_second=only_second,
        neither_right=table.count((False, False)),
        difference=interval([[b.verdict.points - a.verdict.points for a, b in pairs]], seed=seed),
        p_value=mcnemar_exact(only_first, only_second),
        num_left_out=len({o.id for o in first} | {o.id for o in second}) - len(pairs),
    )


def compare_by_category(first: Sequence[Outcome], second: Sequence[Outcome], *, seed: int = 0) -> dict[str, Comparison]:
    """The same for each category that has a pair. The p-values are not corrected for their number."""
    names = dict.fromkeys(name for a, _ in _pairs(first, second) for name in a.categories)
    return {
        name: compare(
            [o for o in first if name in o.categories], [o for o in second if name in o.categories], seed=seed
        )
        for name in names
    }


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """The two-sided p-value: twice the chance that a fair coin gives the smaller side as few of the discordant pairs
    or fewer, at most 1. 1 where no pair is discordant."""
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts of pairs cannot be negative, got {only_first} and {only_second}")
    n = only_first + only_second
    term = total = 1  # of C(n, k), k = 0 … min
    for k in range(min(only_first, only_second)):
        term = term * (n - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / 2**n)


def _pairs(first: Sequence[Outcome], second: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    left, right = _by_id(first), _by_id(second)
    return [(a, right[id]) for id, a in left.items() if id in right and a.is_scored and right[id].is_scored]


def _by_id(outcomes: Sequence[Outcome]) -> Mapping[str, Outcome]:
    found = {outcome.id: outcome for outcome in outcomes}
    if len(found) != len(outcomes):
        raise ValueError(f"{len(outcomes) - len(found)} ids appear twice in a run")
    return found
