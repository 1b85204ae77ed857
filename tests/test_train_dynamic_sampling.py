"""Advantages of a group, and which groups a step is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from data_records import PLAIN
from hypothesis import given
from hypothesis import strategies as st

from vzoom.protocol.judging import JudgeFailed
from vzoom.train.recipes.recipe import ClipBounds
from vzoom.train.rl.dynamic_sampling import RolloutGroup, SampledGroups, advantages, refill_size, sample_groups
from vzoom.train.rl.reward import Reward
from vzoom.types import Trajectory

REWARDS = st.lists(st.sampled_from([0.0, 0.1, 0.9, 1.0, 1.4, 1.5]), min_size=2, max_size=16)
Totals = Sequence[float | None]


def group_of(totals: Totals, *, id: str = "q") -> RolloutGroup:
    record = replace(PLAIN, id=id)
    trajectory = Trajectory(record.question, record.video.info)
    rewards = tuple(JudgeFailed("x", 1) if t is None else Reward(t, 1.0, 0.0, t) for t in totals)
    return RolloutGroup(record, (trajectory,) * len(totals), rewards)


def sampled_of(outcomes: Sequence[Totals], *, wanted: int, max_refills: int) -> tuple[SampledGroups, list[int]]:
    """What is sampled if groups come out like this, one after the other, and how many were asked for each time."""
    asked: list[int] = []
    coming = iter(enumerate(outcomes))

    def roll_out(count: int) -> list[RolloutGroup]:
        asked.append(count)
        return [group_of(totals, id=str(number)) for number, totals in (next(coming) for _ in range(count))]

    return sample_groups(roll_out, wanted=wanted, max_refills=max_refills), asked


# ---------------------------------------------------------------- one group


def test_advantages_by_hand() -> None:
    # 1, 0, 0, 1: mean 1/2, std with n − 1: sqrt(4 · 1/4 / 3) = 1 / sqrt(3)
    expected = 0.5 / (1 / math.sqrt(3) + 1e-6)
    assert advantages([1.0, 0.0, 0.0, 1.0]) == pytest.approx([expected, -expected, -expected, expected], rel=1e-12)
    # 1.5, 1.0, 0.1, 0: mean 0.65, squares .7225 + .1225 + .3025 + .4225 = 1.57, std sqrt(1.57 / 3) = .7234178138
    found = advantages([1.5, 1.0, 0.1, 0.0])
    assert found == pytest.approx([1.1749763, 0.4838138, -0.7602787, -0.8985112], abs=2e-6)
    assert advantages([0.9 + 0.1, 1.0, 0.3 + 0.7]) == [0.0, 0.0, 0.0]
    assert advantages([0.7]) == [0.0]
    assert advantages([]) == []


@given(REWARDS, st.floats(-5, 5))
def test_advantages_sum_to_zero_and_do_not_care_for_an_offset(rewards: list[float], offset: float) -> None:
    found = advantages(rewards)
    assert sum(found) == pytest.approx(0.0, abs=1e-9)
    assert advantages([r + offset for r in rewards]) == pytest.approx(found, abs=1e-4)
    if len(set(rewards)) > 1:
        assert sum(a * a for a in found) == pytest.approx(len(found) - 1, rel=1e-4)
        assert sorted(range(len(found)), key=lambda i: (found[i], i)) == sorted(
            range(len(found)), key=lambda i: (rewards[i], i)
        )


def test_a_rollout_without_a_reward_is_no_bad_rollout() -> None:
    group = group_of((1.0, None, 0.0, None, 0.0, 1.0))
    assert group.num_failed == 2
    assert group.totals == (1.0, 0.0, 0.0, 1.0)
    assert group.has_signal
    expected = 0.5 / (1 / math.sqrt(3) + 1e-6)
    assert group_of((1.0, 0.0, 0.0, 1.0)).advantages == pytest.approx((expected, -expected, -expected, expected))
    assert not group_of((None, None)).has_signal
    assert not group_of((1.0, None)).has_signal
    with pytest.raises(ValueError, match="question 7 has 0 rollouts"):
        group_of((), id="7")
    with pytest.raises(ValueError, match="question 7 has 2 rollouts and 1 rewards"):
        replace(group_of((1.0, 0.0), id="7"), rewards=(Reward(1.0, 1.0, 0.0, 1.0),))
    with pytest.raises(ValueError, match="not finite"):
        group_of((1.0, math.nan))


# ---------------------------------------------------------------- the groups of a step


def test_flat_and_unjudged_groups_are_dropped_and_counted() -> None:
    outcomes = [(1.0, 0.0), (1.0, 1.0), (1.0, None), (0.1, 1.5), (None, None), (0.0, 0.9), (1.0, None, 0.0)]
    sampled, asked = sampled_of(outcomes, wanted=7, max_refills=0)
    assert asked == [7]
    assert [g.record.id for g in sampled.kept] == ["0", "3", "5"]
    assert [g.record.id for g in sampled.rolled_out] == [str(i) for i in range(7)]
    assert (sampled.num_flat, sampled.num_unjudged, sampled.num_failed, sampled.num_unused) == (1, 3, 4, 0)
    assert sampled.keep_rate == 3 / 7


def test_groups_without_signal_are_replaced() -> None:
    outcomes = [(1.0, 1.0), (0.0, 1.0), (None, 1.0), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, 1.0)]
    sampled, asked = sampled_of(outcomes, wanted=3, max_refills=3)
    assert asked == [3, 3]  # 2 are missing, and one in three could be used: 6, but never more than are wanted
    assert [g.record.id for g in sampled.kept] == ["1", "4", "5"]
    assert (sampled.num_flat, sampled.num_unjudged, sampled.num_failed) == (2, 1, 1)
    assert (sampled.num_refills, sampled.num_unused, sampled.keep_rate) == (1, 0, 3 / 6)
    for group in sampled.kept:
        assert sorted(round(a, 3) for a in group.advantages) == [-0.707, 0.707]


def test_refills_end_and_unused_groups_are_counted() -> None:
    flat, asked = sampled_of([(1.0, 1.0)] * 6, wanted=2, max_refills=2)
    assert asked == [2, 2, 2]
    assert (flat.kept, flat.num_refills, flat.keep_rate) == ((), 2, 0.0)
    some, _ = sampled_of([(1.0, 1.0), (1.0, 1.0), (1.0, 0.0), *[(0.0, 1.0)] * 9], wanted=3, max_refills=1)
    assert (len(some.kept), some.num_unused, some.num_flat) == (3, 1, 2)


def test_the_size_of_a_refill() -> None:
    assert refill_size(num_missing=2, num_usable=3, num_seen=7, most=100) == 5  # 2 / (3/7) = 4.67
    assert refill_size(num_missing=2, num_usable=3, num_seen=7, most=3) == 3
    assert refill_size(num_missing=2, num_usable=0, num_seen=3, most=100) == 8  # nothing usable: at most one in 4
    assert refill_size(num_missing=9, num_usable=1, num_seen=1, most=100) == 9


@given(
    st.lists(st.lists(st.sampled_from([None, 0.0, 1.0]), min_size=1, max_size=4), min_size=9, max_size=9),
    st.integers(1, 3),
)
def test_every_group_is_kept_or_counted(outcomes: list[list[float | None]], wanted: int) -> None:
    sampled, asked = sampled_of(outcomes, wanted=wanted, max_refills=2)
    counted = sampled.num_unused + sampled.num_flat + sampled.num_unjudged
    assert len(sampled.kept) + counted == len(sampled.rolled_out) == sum(asked)
    assert len(sampled.kept) == wanted or len(asked) == 3
    kept = [int(g.record.id) for g in sampled.kept]
    assert kept == sorted(kept)
    assert all(set(g.totals) == {0.0, 1.0} and not g.num_failed for g in sampled.kept)


def test_what_the_caller_may_not_ask() -> None:
    with pytest.raises(ValueError, match="wanted must be 1 or more, got 0"):
        sampled_of([], wanted=0, max_refills=0)
    assert (ClipBounds().low, ClipBounds().high) == (0.2, 0.27)
    for low, high in ((0.0, 0.2), (1.0, 1.0), (0.2, 0.1), (0.2, math.nan)):
        with pytest.raises(ValueError, match="high ≥ low"):
            ClipBounds(low, high)
