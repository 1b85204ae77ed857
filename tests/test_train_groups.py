from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzoom.train.rl.groups import ClipBounds, Group, advantages, refill_size, sift

REWARDS = st.lists(st.sampled_from([0.0, 0.1, 0.9, 1.0, 1.4, 1.5]), min_size=2, max_size=16)


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
    group = Group(3, (1.0, None, 0.0, None, 0.0, 1.0))
    assert group.num_failed == 2
    assert group.scored == (1.0, 0.0, 0.0, 1.0)
    expected = 0.5 / (1 / math.sqrt(3) + 1e-6)
    assert group.advantages == pytest.approx((expected, None, -expected, None, -expected, expected))
    assert Group(0, (None, None)).advantages == (None, None)
    assert not Group(0, (None, None)).has_signal
    with pytest.raises(ValueError, match="group 7 has no rollouts"):
        Group(7, ())
    with pytest.raises(ValueError, match="not finite"):
        Group(7, (1.0, math.nan))


GROUPS = (
    Group(0, (1.0, 0.0)),
    Group(1, (1.0, 1.0)),
    Group(2, (1.0, None)),
    Group(3, (0.1, 1.5)),
    Group(4, (None, None)),
    Group(5, (0.0, 0.9)),
    Group(6, (1.0, None, 0.0)),
)


def test_flat_and_unjudged_groups_are_dropped_and_counted() -> None:
    sifted = sift(GROUPS, wanted=5)
    assert [g.key for g in sifted.kept] == [0, 3, 5]
    assert (sifted.num_flat, sifted.num_unjudged, sifted.num_failed, sifted.num_missing) == (1, 3, 4, 2)
    assert sifted.keep_rate == 3 / 7
    assert refill_size(sifted, largest=100) == 5  # 2 / (3/7) = 4.67
    assert refill_size(sifted, largest=3) == 3
    tolerant = sift(GROUPS, wanted=2, min_scored=2)
    assert [g.key for g in tolerant.kept] == [0, 3]
    assert [g.key for g in tolerant.spare] == [5, 6]
    assert (tolerant.num_flat, tolerant.num_unjudged, tolerant.num_missing) == (1, 2, 0)
    assert tolerant.keep_rate == 4 / 7
    assert refill_size(tolerant, largest=100) == 0


def test_nothing_usable_still_asks_for_a_finite_refill() -> None:
    sifted = sift([Group(0, (1.0, 1.0))] * 3, wanted=2)
    assert sifted.kept == ()
    assert refill_size(sifted, largest=100) == 8  # 2 missing, at most one in 4
    assert refill_size(sift([Group(0, (0.0, 1.0))], wanted=10), largest=100) == 9


@given(st.lists(st.lists(st.sampled_from([None, 0.0, 1.0]), min_size=1, max_size=4), min_size=1), st.integers(1, 5))
def test_every_group_is_kept_spare_or_counted(rewards: list[list[float | None]], wanted: int) -> None:
    groups = [Group(i, tuple(r)) for i, r in enumerate(rewards)]
    sifted = sift(groups, wanted=wanted, min_scored=2)
    good = sifted.kept + sifted.spare
    assert len(good) + sifted.num_flat + sifted.num_unjudged == len(groups)
    assert len(sifted.kept) + sifted.num_missing == wanted
    assert [g.key for g in good] == sorted(g.key for g in good)
    assert all({0.0, 1.0} <= set(g.rewards) for g in good)


def test_what_the_caller_may_not_ask() -> None:
    with pytest.raises(ValueError, match="wanted must be 1 or more, got 0"):
        sift(GROUPS, wanted=0)
    with pytest.raises(ValueError, match="min_scored must be 2 or more"):
        sift(GROUPS, wanted=1, min_scored=1)
    with pytest.raises(ValueError, match="no groups"):
        sift([], wanted=1)
    with pytest.raises(ValueError, match="largest"):
        refill_size(sift(GROUPS, wanted=1), largest=0)
    assert (ClipBounds().low, ClipBounds().high) == (0.2, 0.27)
    for low, high in ((0.0, 0.2), (1.0, 1.0), (0.2, 0.1), (0.2, math.nan)):
        with pytest.raises(ValueError, match="high ≥ low"):
            ClipBounds(low, high)
