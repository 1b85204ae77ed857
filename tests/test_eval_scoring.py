"""Figures that were worked out by hand, and tests between runs against what scipy's definitions give."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from vzoom.eval.item import KINDS, Item, Verdict, VerdictKind, judged_in_parts
from vzoom.eval.scores.compare import compare, mcnemar_exact
from vzoom.eval.scores.scoring import ItemVerdict, mean_of_categories, score_run, summarise


def verdict_on(id: str, kind: VerdictKind | Verdict, *categories: str, bucket: str = "") -> ItemVerdict:
    verdict = kind if isinstance(kind, Verdict) else Verdict(kind)
    return ItemVerdict(id, categories or ("all",), bucket, verdict)


def run_of(*kinds: VerdictKind) -> list[ItemVerdict]:
    return [verdict_on(str(i), kind) for i, kind in enumerate(kinds)]


# ---------------------------------------------------------------- one run


def test_each_kind_is_counted_apart_and_only_verdicts_are_scored() -> None:
    kinds = ("right", "right", "right", "wrong", "unanswered", "unparsable", "unjudged", "missing_video", "failed")
    summary = summarise(run_of(*kinds))
    assert dict(summary.counts) == {**dict.fromkeys(KINDS, 1), "right": 3}
    assert (summary.num_items, summary.num_scored) == (9, 6)
    assert summary.accuracy is not None
    assert summary.accuracy.mean == pytest.approx(3 / 6)  # unanswered and unparsable earn nothing
    assert summary.of_read == pytest.approx(3 / 4)
    assert summary.bounds == (3 / 9, 6 / 9)  # the three without a verdict, all wrong and all right
    written = json.loads(json.dumps(summary.to_json()))
    assert written["unjudged"] == 1
    assert written["accuracy"]["mean"] == pytest.approx(0.5)


def test_a_run_without_a_verdict_has_no_accuracy() -> None:
    scores = score_run(run_of("unjudged", "missing_video"), headline="items")
    assert scores.overall.accuracy is None
    assert scores.overall.of_read is None
    assert scores.headline is None
    assert scores.overall.bounds == (0.0, 1.0)
    assert json.loads(json.dumps(scores.to_json()))["headline"] is None


def test_points_of_parts_are_averaged() -> None:
    verdicts = [verdict_on("a", judged_in_parts(2, 3, said="")), verdict_on("b", "wrong")]
    summary = summarise(verdicts)
    assert summary.accuracy is not None
    assert summary.accuracy.mean == pytest.approx(1 / 3)


def test_categories_and_durations_an_item_may_be_in_several() -> None:
    verdicts = [
        verdict_on("a", "right", "x", "y", bucket="short"),
        verdict_on("b", "wrong", "y", bucket="long"),
        verdict_on("c", "right", "z"),
    ]
    scores = score_run(verdicts, headline="items")
    assert {name: s.num_items for name, s in scores.by_category.items()} == {"x": 1, "y": 2, "z": 1}
    assert list(scores.by_duration) == ["short", "long"]
    assert scores.headline is not None
    assert scores.headline.mean == pytest.approx(2 / 3)
    by_categories = score_run(verdicts, headline="categories").headline
    assert by_categories is not None
    assert by_categories.mean == pytest.approx((1 + 0.5 + 1) / 3)


def test_an_outcome_has_its_items_groups() -> None:
    item = Item("7", "b", "v.mp4", "q", ("r", "s"), "A", "x + y", "long", None, "f:1")
    assert ItemVerdict.of(item, Verdict("right")) == ItemVerdict("7", ("x", "y"), "long", Verdict("right"))


def test_the_interval_of_a_mean_of_categories_is_that_of_independent_groups() -> None:
    many = [verdict_on(f"m{i}", "right" if i < 720 else "wrong", "many") for i in range(900)]
    few = [verdict_on(f"f{i}", "right" if i < 50 else "wrong", "few") for i in range(100)]
    found = mean_of_categories({"many": many, "few": few}, seed=1)
    assert found is not None
    assert found.mean == pytest.approx(0.65)
    error = 1.96 * math.sqrt(0.8 * 0.2 / 900 + 0.5 * 0.5 / 100) / 2
    assert found.low == pytest.approx(0.65 - error, abs=0.006)
    assert found.high == pytest.approx(0.65 + error, abs=0.006)
    assert found == mean_of_categories({"many": many, "few": few}, seed=1)
    assert mean_of_categories({"many": many, "none": run_of("unjudged")}) is None


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [([], "the run has no item"), ([verdict_on("a", "right"), verdict_on("a", "wrong")], "1 ids appear twice .* 'a'")],
)
def test_runs_that_cannot_be_scored(verdicts: list[ItemVerdict], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_run(verdicts, headline="items")


# ---------------------------------------------------------------- two runs


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (1, 1, 1.0),
        (0, 1, 1.0),
        (0, 6, 2 / 64),
        (1, 5, 2 * (1 + 6) / 64),
        (5, 1, 2 * (1 + 6) / 64),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
        (10, 10, 1.0),
    ],
)
def test_mcnemar_by_hand(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar_exact(only_first, only_second) == pytest.approx(p)


def test_mcnemar_of_large_counts_is_the_normal_approximation() -> None:
    p = mcnemar_exact(4900, 5100)
    z = (abs(5100 - 4900) - 1) / math.sqrt(10_000)
    assert p == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)


def test_mcnemar_rejects_as_seldom_as_it_says() -> None:
    rng = np.random.default_rng(0)
    rejected = sum(mcnemar_exact(int(k), 40 - int(k)) < 0.05 for k in rng.binomial(40, 0.5, size=2000))
    assert 40 <= rejected <= 100  # exact tests stay below 5 % of 2 000


def test_runs_are_compared_pair_by_pair() -> None:
    first = run_of("right", "wrong", "right", "unanswered", "unparsable", "right", "missing_video")
    second = run_of("right", "right", "wrong", "right", "wrong", "unjudged", "right")
    second.append(verdict_on("new", "right"))
    found = compare(first, second)
    # Pairs are items 0 to 4; 5, 6 and "new" have no scored partner.
    assert (found.num_pairs, found.num_left_out) == (5, 3)
    assert (found.both_right, found.only_first, found.only_second, found.neither_right) == (1, 1, 2, 1)
    assert found.difference.mean == pytest.approx(1 / 5)
    assert found.p_value == 1.0
    back = compare(second, first)
    assert back.difference.mean == pytest.approx(-1 / 5)
    assert (back.only_first, back.only_second) == (2, 1)
    assert json.loads(json.dumps(found.to_json()))["difference"]["mean"] == pytest.approx(0.2)


def test_pairing_sees_what_two_intervals_do_not() -> None:
    """Ten items better and none worse, of 200: the runs' own intervals overlap, the paired difference is clear."""
    first = run_of(*["right"] * 100, *["wrong"] * 100)
    second = run_of(*["right"] * 110, *["wrong"] * 90)
    a, b = summarise(first).accuracy, summarise(second).accuracy
    assert a is not None
    assert b is not None
    assert b.low < a.high
    found = compare(first, second)
    assert found.p_value == pytest.approx(2 / 2**10)
    assert found.difference.low > 0


def test_points_of_parts_count_in_the_difference() -> None:
    first = [verdict_on("a", judged_in_parts(1, 4, said=""))]
    second = [verdict_on("a", judged_in_parts(3, 4, said=""))]
    assert compare(first, second).difference.mean == pytest.approx(0.5)


def test_runs_without_a_common_item_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="share no scored item"):
        compare([verdict_on("a", "right")], [verdict_on("b", "right")])
    with pytest.raises(ValueError, match="1 ids appear twice"):
        compare([verdict_on("a", "right"), verdict_on("a", "right")], [verdict_on("a", "right")])
    with pytest.raises(ValueError, match="cannot be negative"):
        mcnemar_exact(-1, 2)
