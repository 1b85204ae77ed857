"""Statistics of groups: the rollouts of one question, compared with each other.

GRPO (DeepSeekMath, arXiv 2402.03300, eq. 3; VideoZoomer, arXiv 2512.22315): a rollout's advantage is
(reward − mean) / (std + 1e-6) within its group, std with n − 1 as the public code has it. A group whose rewards are
all equal teaches nothing and is replaced by another (DAPO's dynamic sampling, arXiv 2503.14476).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STD_FLOOR = 1e-6
_NO_SPREAD = 1e-6  # rewards that differ less are equal: what is left of 0.9 + 0.1 in floating point


@dataclass(frozen=True)
class Group:
    """One question's rollouts. rewards[i] is None where a judge failed: that rollout has no reward, not a bad one."""

    key: int  # the question's number, for the caller
    rewards: tuple[float | None, ...]

    def __post_init__(self) -> None:
        if not self.rewards:
            raise ValueError(f"group {self.key} has no rollouts")
        bad = [r for r in self.scored if not math.isfinite(r)]
        if bad:
            raise ValueError(f"group {self.key} has rewards that are not finite: {bad}")

    @property
    def scored(self) -> tuple[float, ...]:
        return tuple(r for r in self.rewards if r is not None)

    @property
    def num_failed(self) -> int:
        return len(self.rewards) - len(self.scored)

    @property
    def has_signal(self) -> bool:
        """Whether its rewards differ."""
        return bool(self.scored) and max(self.scored) - min(self.scored) > _NO_SPREAD

    @property
    def advantages(self) -> tuple[float | None, ...]:
        """Of each rollout against those of its group that have a reward; None where there is none."""
        values = iter(advantages(self.scored))
        return tuple(None if r is None else next(values) for r in self.rewards)


def advantages(rewards: Sequence[float]) -> list[float]:
    """(r − mean) / (std + 1e-6) of one group; 0 for each where all are equal, or there is only one."""
    if len(rewards) < 2 or max(rewards) - min(rewards) <= _NO_SPREAD:
        return [0.0] * len(rewards)
    mean, std = statistics.fmean(rewards), statistics.stdev(rewards)
    return [(r - mean) / (std + STD_FLOOR) for r in rewards]


@dataclass(frozen=True)
class Sifted:
    """kept: groups to train on, at most as many as wanted. spare: as good, for the next step.

    num_flat and num_unjudged groups were dropped, for equal rewards and for too few rewards; num_failed rollouts had
    none in all.
    """

    kept: tuple[Group, ...]
    spare: tuple[Group, ...]
    num_flat: int
    num_unjudged: int
    num_failed: int
    num_missing: int  # groups that are wanted still

    @property
    def keep_rate(self) -> float:
        """The fraction of groups that could be used."""
        good = len(self.kept) + len(self.spare)
        return good / (good + self.num_flat + self.num_unjudged)


def sift(groups: Iterable[Group], *, wanted: int, min_scored: int | None = None) -> Sifted:
    """Keep the groups that teach something, in their order.

    min_scored: rewards that a group must have, 2 or more; None is all of them, as in VideoZoomer: one failed judge
    drops the group. With fewer, the rollouts without a reward alone are left out.
    """
    if wanted < 1:
        raise ValueError(f"wanted must be 1 or more, got {wanted}")
    if min_scored is not None and min_scored < 2:
        raise ValueError(f"min_scored must be 2 or more to compare rollouts, got {min_scored}")
    groups = list(groups)
    if not groups:
        raise ValueError("there are no groups to sift: roll some out first")
    judged = [g for g in groups if len(g.scored) >= (len(g.rewards) if min_scored is None else min_scored)]
    good = [g for g in judged if g.has_signal]
    return Sifted(
        kept=tuple(good[:wanted]),
        spare=tuple(good[wanted:]),
        num_flat=len(judged) - len(good),
        num_unjudged=len(groups) - len(judged),
        num_failed=sum(g.num_failed for g in groups),
        num_missing=max(0, wanted - len(good)),
    )


def refill_size(sifted: Sifted, *, largest: int) -> int:
    """How many groups to roll out next so that about num_missing of them can be used: never more than `largest`.

    A keep rate that is 0 so far is taken for that of one good group among those seen and one more.
    """
    if largest < 1:
        raise ValueError(f"largest must be 1 or more, got {largest}")
    seen = len(sifted.kept) + len(sifted.spare) + sifted.num_flat + sifted.num_unjudged
    rate = sifted.keep_rate or 1 / (seen + 1)
    return min(largest, math.ceil(sifted.num_missing / rate - 1e-9))


@dataclass(frozen=True)
class ClipBounds:
    """A token's probability ratio counts between 1 − low and 1 + high; high above low leaves rare tokens room to
    grow (clip-higher, DAPO). The defaults are VideoZoomer's."""

    low: float = 0.2
    high: float = 0.27

    def __post_init__(self) -> None:
        if not 0 < self.low < 1 or not self.high >= self.low:
            raise ValueError(f"need 0 < low < 1 and high ≥ low, got low {self.low}, high {self.high}")
