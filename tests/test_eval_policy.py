"""Budgets and policies as settings of conversations, shards, costs, and how sure an answer was."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from protocols import VZOOM

from vzoom.config import ZoomConfig
from vzoom.eval.runs.policy import Policy
from vzoom.eval.runs.ray_driver import without_ray
from vzoom.eval.runs.shard import Shard, local_device
from vzoom.eval.runs.sweep import SWEEPS, points_of
from vzoom.eval.scores.confidence import confidence_of
from vzoom.eval.scores.cost import ModelShape, cost_of
from vzoom.protocol.frame_times import glance_timestamps
from vzoom.types import Trajectory, VideoInfo, Visual

VIDEO = VideoInfo("x.mp4", 100.0, 25.0, 640, 480)
OWN = ZoomConfig()


def test_uniform_takes_its_budget_whatever_the_rate():
    for budget in (8, 64, 128, 200):
        (config,) = Policy("uniform", budget=budget).configs(OWN)
        times = glance_timestamps(VIDEO, config)
        assert len(times) == budget
        assert times[1] - times[0] == pytest.approx(100 / budget)
        assert config.max_zooms == 0
        assert config.max_frames >= budget
    (config,) = Policy("uniform").configs(OWN)
    assert len(glance_timestamps(VIDEO, config)) == OWN.glance_max_frames


def test_uniform_at_a_fixed_rate_is_bounded_by_the_budget():
    (config,) = Policy("uniform", fps=1.0).configs(OWN)
    assert len(glance_timestamps(VIDEO, config)) == 100
    (config,) = Policy("uniform", fps=1.0, budget=40).configs(OWN)
    assert len(glance_timestamps(VIDEO, config)) == 40


def test_a_zoom_budget_is_of_glance_and_zooms_together():
    (config,) = Policy("zoom", budget=48).configs(OWN.override(glance_max_frames=32))
    assert (config.glance_max_frames, config.max_frames, config.max_zooms) == (32, 48, 4)
    (config,) = Policy("zoom", budget=16).configs(OWN)
    assert (config.glance_max_frames, config.max_frames) == (16, 16)
    assert Policy("zoom").configs(OWN) == (OWN,)


def test_policies_that_may_ask_again():
    assert [c.max_zooms for c in Policy("gated").configs(OWN)] == [0, 4]
    assert [c.max_zooms for c in Policy("early-stop").configs(OWN)] == [0, 1, 2, 3, 4]
    assert [c.max_zooms for c in Policy("gated").configs(OWN.override(max_zooms=0))] == [0]


@pytest.mark.parametrize(
    "wrong",
    [{"name": "zoom", "fps": 1.0}, {"budget": 0}, {"confidence": 0.0}, {"name": "none"}, {"name": "uniform", "fps": 0}],
)
def test_a_policy_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=r"must be|is for"):
        Policy(**wrong)


def test_shards_from_words_and_from_accelerate():
    assert Shard.parse("1/4") == Shard(1, 4)
    assert Shard.from_environment({"RANK": "2", "WORLD_SIZE": "3"}) == Shard(2, 3)
    assert Shard.from_environment({}) == Shard(0, 1)
    assert [b for b in range(7) if Shard(1, 3).mine(b)] == [1, 4]
    for text in ("4/4", "1", "a/b", "-1/2"):
        with pytest.raises(ValueError, match="a shard is i/n"):
            Shard.parse(text)
    with pytest.raises(ValueError, match="RANK is not"):
        Shard.from_environment({"WORLD_SIZE": "2"})
    assert local_device("cuda:1", {"LOCAL_RANK": "0"}) == "cuda:1"
    assert local_device("auto", {}) == "auto"


def test_the_driver_s_own_words_are_not_handed_on():
    words = ["eval", "--ray", "4", "--gpus=0.5", "--benchmark", "world", "--shard", "0/2", "--out", "x"]
    assert without_ray(words) == ["eval", "--benchmark", "world", "--out", "x"]


class Letters:
    """A tokenizer of one character a token."""

    def decode(self, ids):
        return "".join(map(chr, ids))


def told(text: str, sure: dict[str, float]) -> Trajectory:
    trajectory = Trajectory("?", VIDEO, answer="B")
    written = text.partition("|")
    trajectory.ids = [ord(c) for c in written[0] + written[2]]
    trajectory.sampled = [False] * len(written[0]) + [True] * len(written[2])
    trajectory.logprobs = [math.log(sure.get(chr(i), 1.0)) for i in trajectory.ids]
    return trajectory


def test_confidence_is_of_the_answer_not_of_the_thought():
    assert confidence_of(told("B|Qq<answer>B</answer>", {"B": 0.6, "q": 0.01}), Letters(), VZOOM) == pytest.approx(0.6)
    assert confidence_of(told("|<answer>xyz</answer>", {"x": 0.9, "z": 0.3}), Letters(), VZOOM) == pytest.approx(0.3)
    untagged = replace(told("|<think>q</think>B.", {"B": 0.6, "q": 0.01}), answer_is_untagged=True)
    assert confidence_of(untagged, Letters(), VZOOM) == pytest.approx(0.6)
    assert confidence_of(replace(told("|qB.", {"q": 0.2}), answer_is_untagged=True), Letters(), VZOOM) == pytest.approx(
        0.2
    )
    no_answer = replace(told("|B", {}), answer=None)
    assert confidence_of(no_answer, Letters(), VZOOM) == 0


def test_cost_by_hand():
    shape = ModelShape(
        num_layers=2, num_heads=4, num_kv_heads=1, head_dim=8, layer_weights=1000, head_weights=100,
        vision_weights=50, merger_weights=40, merge_patches=4, vision_layers=3, vision_whole_layers=1,
        vision_window_patches=4, vision_hidden=6, value_bytes=2,
    )  # fmt: skip
    trajectory = told("abc|de", {})
    trajectory.visuals = [Visual((0.0,), (1, 4, 2), 0, 2)]
    cost = cost_of(trajectory, shape)
    fed = 4  # of five tokens the last was never fed
    language = 2 * 1000 * fed + 2 * 100 * 2 + 4 * 2 * 4 * 8 * (1 + 2 + 3 + 4)
    vision = 2 * (50 * 8 + 40 * 2) + 4 * 6 * 8 * (1 * 8 + 2 * 4)
    assert cost.flops == language + vision
    assert cost.kv_bytes == 2 * fed * 2 * 1 * 8 * 2


def test_sweeps_vary_one_setting_each():
    points = {sweep: points_of(sweep, Policy("zoom", budget=40)) for sweep in SWEEPS}
    names = [point.name for several in points.values() for point in several]
    assert len(names) == len(set(names))  # all of them fit into one folder
    assert [p.zoom["max_zooms"] for p in points["zooms"]] == [0, 1, 2, 3, 4]
    assert [p.zoom["glance_max_frames"] for p in points["glance"]] == [8, 16, 32, 64]
    frames = [len(glance_timestamps(VIDEO, p.policy.configs(OWN)[0])) for p in points["frames"]]
    assert frames == [8, 16, 32, 64, 128]
    rates = [len(glance_timestamps(VIDEO, p.policy.configs(OWN)[0])) for p in points["fps"]]
    assert rates == [13, 25, 40, 40, 40]  # of 100 s, bounded by the budget
    for sweep in ("gated", "early-stop"):
        assert {p.policy.name for p in points[sweep]} == {sweep}
        bounds = [p.policy.confidence for p in points[sweep]]
        assert bounds == sorted(set(bounds))
    others = [p for sweep in SWEEPS if sweep != "frames" for p in points[sweep]]
    assert {p.policy.budget for p in others} == {40}
    with pytest.raises(ValueError, match="choose one of zooms, glance"):
        points_of("none", Policy())
