"""Groups of rollouts that teach something: roll out, drop groups without signal, roll out others in their place.

A group is one question's rollouts, compared with each other. Its advantages are GRPO's (DeepSeekMath, arXiv
2402.03300, eq. 3; VideoZoomer, arXiv 2512.22315): (reward − mean) / (std + 1e-6) within the group, std with n − 1 as
the public code has it. A group whose rewards are all equal teaches nothing and is replaced by another (dynamic sampling
of DAPO, arXiv 2503.14476), as is one that a judge failed on. Groups beyond what was wanted are
dropped and counted: carried over, they would be of an older policy than the next step's.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...data import Record
from ...protocol import JudgeFailed
from ...types import Trajectory
from .reward import Reward

STD_FLOOR = 1e-6
_NO_SPREAD = 1e-6  # rewards that differ less are equal: what is left of 0.9 + 0.1 in floating point


@dataclass(frozen=True)
class RolloutGroup:
    """One question's rollouts and what each is worth; `JudgeFailed` if nobody could say."""

    record: Record
    trajectories: tuple[Trajectory, ...]
    rewards: tuple[Reward | JudgeFailed, ...]

    def __post_init__(self) -> None:
        if not self.trajectories or len(self.trajectories) != len(self.rewards):
            raise ValueError(
                f"question {self.record.id} has {len(self.trajectories)} rollouts and {len(self.rewards)} rewards"
            )
        if odd := [total for total in self.totals if not math.isfinite(total)]:
            raise ValueError(f"question {self.record.id} has rewards that are not finite: {odd}")

    @property
    def totals(self) -> tuple[float, ...]:
        """The rewards of those rollouts that have one."""
        return tuple(reward.total for reward in self.rewards if isinstance(reward, Reward))

    @property
    def num_failed(self) -> int:
        """Rollouts that the judge failed on."""
        return len(self.rewards) - len(self.totals)

    @property
    def has_signal(self) -> bool:
        """Whether its rewards differ."""
        return bool(self.totals) and max(self.totals) - min(self.totals) > _NO_SPREAD

    @property
    def advantages(self) -> tuple[float, ...]:
        """Of each rollout against the others. Every rollout must have a reward."""
        assert not self.num_failed, self.record.id
        return tuple(advantages(self.totals))


def advantages(rewards: Sequence[float]) -> list[float]:
    """(r − mean) / (std + 1e-6) of one group; 0 for each if all are equal, or there is only one."""
    if len(rewards) < 2 or max(rewards) - min(rewards) <= _NO_SPREAD:
        return [0.0] * len(rewards)
    mean, std = statistics.fmean(rewards), statistics.stdev(rewards)
    return [(r - mean) / (std + STD_FLOOR) for r in rewards]


@dataclass(frozen=True)
class SampledGroups:
    """All groups of a step, and those to train on.

    kept: have a signal, at most as many as wanted. rolled_out: all groups, in order. num_flat groups were dropped for
    equal rewards, num_unjudged because a judge failed (on num_failed rollouts in all), num_unused because there were
    enough.
    """

    kept: tuple[RolloutGroup, ...]
    rolled_out: tuple[RolloutGroup, ...]
    num_refills: int
    num_flat: int
    num_unjudged: int
    num_failed: int
    num_unused: int

    @property
    def keep_rate(self) -> float:
        """The fraction of groups that could be trained on."""
        return (len(self.kept) + self.num_unused) / len(self.rolled_out)


def sample_groups(roll_out: Callable[[int], Sequence[RolloutGroup]], *, wanted: int, max_refills: int) -> SampledGroups:
    """Roll out groups until enough of them have a signal, or max_refills is reached: a step may come out short.

    Args:
        roll_out: rolls out so many further questions.
        wanted: groups to train on, 1 or more.
        max_refills: how often groups that cannot be trained on are replaced.
    """
    if wanted < 1:
        raise ValueError(f"wanted must be 1 or more, got {wanted}")
    groups: list[RolloutGroup] = []
    num_refills = -1
    size = wanted
    while True:
        groups += roll_out(size)
        num_refills += 1
        judged = [group for group in groups if not group.num_failed]
        usable = [group for group in judged if group.has_signal]
        if len(usable) >= wanted or num_refills == max_refills:
            break
        size = refill_size(num_missing=wanted - len(usable), num_usable=len(usable), num_seen=len(groups), most=wanted)
    return SampledGroups(
        kept=tuple(usable[:wanted]),
        rolled_out=tuple(groups),
        num_refills=num_refills,
        num_flat=len(judged) - len(usable),
        num_unjudged=len(groups) - len(judged),
        num_failed=sum(group.num_failed for group in groups),
        num_unused=max(0, len(usable) - wanted),
    )


def refill_size(*, num_missing: int, num_usable: int, num_seen: int, most: int) -> int:
    """How many groups to roll out next so that about num_missing of them can be used.

    Args:
        num_missing: groups still wanted.
        num_usable: of the groups so far. If none was, the rate is taken for that of one among one more.
        num_seen: groups so far.
        most: the result is never more.
    """
    rate = num_usable / num_seen or 1 / (num_seen + 1)
    return min(most, math.ceil(num_missing / rate - 1e-9))
