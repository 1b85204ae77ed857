"""Whether one run is better than another on the same items: paired tests.

McNemar's test, exact: if the runs were equally good, a fair coin would decide which of them is right on an item that
only one of them got right (McNemar 1947; the two-sided binomial test). Beside it the difference of the means with its
bootstrap interval, over pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .intervals import Estimate, interval
from .scoring import ItemVerdict


@dataclass(frozen=True)
class Comparison:
    """The second run against the first.

    Args:
        num_pairs: items that both scored.
        both_right: pairs by who got them right; so are only_first, only_second and neither_right.
        difference: the second's mean points minus the first's, over pairs.
        p_value: McNemar's.
        num_left_out: items without a partner that was scored.
    """

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


def compare(first: Sequence[ItemVerdict], second: Sequence[ItemVerdict], *, seed: int = 0) -> Comparison:
    """Compare two runs on the items that both scored.

    Args:
        first: the verdicts of one run.
        second: those of the other, on items with the same ids.
        seed: of the bootstrap.

    Raises:
        ValueError: no item was scored by both, or an id appears twice in a run.
    """
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


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """The two-sided p-value: twice the chance that a fair coin gives the smaller side as few of the discordant pairs
    or fewer, at most 1. 1 if no pair is discordant."""
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts of pairs cannot be negative, got {only_first} and {only_second}")
    n = only_first + only_second
    term = total = 1  # of C(n, k), k = 0 … min
    for k in range(min(only_first, only_second)):
        term = term * (n - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / 2**n)


def _pairs(first: Sequence[ItemVerdict], second: Sequence[ItemVerdict]) -> list[tuple[ItemVerdict, ItemVerdict]]:
    left, right = _by_id(first), _by_id(second)
    return [(a, right[id]) for id, a in left.items() if id in right and a.is_scored and right[id].is_scored]


def _by_id(verdicts: Sequence[ItemVerdict]) -> Mapping[str, ItemVerdict]:
    found = {one.id: one for one in verdicts}
    if len(found) != len(verdicts):
        raise ValueError(f"{len(verdicts) - len(found)} ids appear twice in a run")
    return found
