import math

import numpy as np
import pytest

from vzoom.eval.scores.intervals import interval


def test_one_group_is_the_binomial_interval():
    estimate = interval([[1.0] * 80 + [0.0] * 20])
    assert estimate.mean == 0.8
    error = 1.96 * math.sqrt(0.8 * 0.2 / 100)
    assert estimate.low == pytest.approx(0.8 - error, abs=0.015)
    assert estimate.high == pytest.approx(0.8 + error, abs=0.015)


def test_groups_that_differ_widen_the_interval():
    alike = interval([[1.0] * 80 + [0.0] * 20] * 3)
    apart = interval([[1.0] * 100, [1.0] * 80 + [0.0] * 20, [1.0] * 60 + [0.0] * 40])
    assert alike.mean == pytest.approx(0.8)
    assert apart.mean == pytest.approx(0.8)
    assert alike.high - alike.low < 0.12
    assert apart.high - apart.low > 2 * (alike.high - alike.low)


def test_three_groups_hold_the_mean_of_their_means_whatever_their_sizes():
    assert interval([[1.0], [0.0] * 99]).mean == 0.5


def test_it_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        estimate = interval([(rng.random(100) < 0.7).tolist()], seed=trial, resamples=500)
        inside += estimate.low <= 0.7 <= estimate.high
    assert 178 <= inside <= 199


def test_equal_values_have_no_width_and_the_seed_decides():
    assert str(interval([[1.0] * 5])) == "1.000 [1.000, 1.000]"
    groups = [[0.0, 1.0, 1.0, 0.0, 1.0]]
    assert interval(groups, seed=1) == interval(groups, seed=1)


@pytest.mark.parametrize("groups", [[], [[]], [[1.0], []]])
def test_nothing_has_no_interval(groups):
    with pytest.raises(ValueError, match="needs values in every group"):
        interval(groups)
