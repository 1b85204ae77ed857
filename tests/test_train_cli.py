"""`python -m vzoom.train`: what it hands on, and what it says of a wrong command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vzoom.train import __main__ as command_line
from vzoom.train.pretrain import pretrain
from vzoom.train.recipes import RECIPES, recipe_named
from vzoom.train.recipes.recipe import Recipe
from vzoom.train.rl import grpo
from vzoom.train.sft import sft

Calls = list[tuple[Any, dict[str, Any]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What the three stages are called with, in place of doing it."""
    seen: Calls = []

    def stage(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))

    monkeypatch.setattr(sft, "run_sft", stage)
    monkeypatch.setattr(grpo, "run_grpo", stage)
    monkeypatch.setattr(pretrain, "pretrain", stage)
    return seen


def test_sft(calls: Calls, tmp_path: Path) -> None:
    words = ["sft", "qwen2.5-vl-3b-1gpu", "--out", str(tmp_path), "--data", "a", "b", "--seed", "3"]
    assert command_line.main(words) == 0
    ((recipe,), kwargs) = calls[0]
    assert (recipe.name, recipe.seed) == ("qwen2.5-vl-3b-1gpu", 3)
    del kwargs["say"]
    assert kwargs == {
        "base": "Qwen/Qwen2.5-VL-3B-Instruct",
        "data": [Path("a"), Path("b")],
        "out": tmp_path,
        "resume": "auto",
        "eval_questions": None,
    }


def test_grpo_of_another_base(calls: Calls, tmp_path: Path) -> None:
    words = ["grpo", "ablation", "--out", str(tmp_path), "--questions", "q", "--base", "x", "--scale", "0.1"]
    assert command_line.main([*words, "--eval-questions", "e", "--resume", "never"]) == 0
    ((recipe,), kwargs) = calls[0]
    assert recipe.grpo.steps == max(2, round(recipe_named("ablation").grpo.steps * 0.1))
    del kwargs["say"]
    assert kwargs == {
        "base": "x",
        "questions": Path("q"),
        "out": tmp_path,
        "resume": "never",
        "eval_questions": Path("e"),
    }


def test_base(calls: Calls, tmp_path: Path) -> None:
    assert command_line.main(["base", "ablation", "--out", str(tmp_path)]) == 0
    (curriculum, out), _ = calls[0]
    assert (curriculum, out) == (recipe_named("ablation").world.curriculum, tmp_path)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["base", "qwen2.5-vl-7b"], "which exists: there is nothing to pretrain"),
        (["sft", "ablation", "--data", "a"], "makes its own base .*--base"),
        (["sft", "qwen2.5-vl-7b", "--data", "a", "--scale", "0"], "scale must be above 0"),
    ],
)
def test_what_does_not_fit(
    words: list[str], problem: str, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert command_line.main([*words, "--out", str(tmp_path)]) == 2
    assert re.search(problem, capsys.readouterr().err)
    assert not calls


def test_recipes_have_their_names() -> None:
    for name, make in RECIPES.items():
        made = make()
        assert isinstance(made, Recipe)
        assert made.name == name
    with pytest.raises(ValueError, match=r"no recipe 'huge'; there are .*qwen2\.5-vl-7b"):
        recipe_named("huge")


def test_the_papers_figures() -> None:
    recipe = recipe_named("qwen2.5-vl-7b")
    zoom, sft_part, rl = recipe.zoom, recipe.sft, recipe.grpo
    assert (zoom.glance_fps, zoom.glance_max_frames, zoom.max_zooms, zoom.zoom_max_frames) == (0.5, 64, 4, 16)
    assert (zoom.max_pixels, zoom.max_frames, zoom.max_new_tokens, zoom.max_total_tokens) == (100352, 128, 4096, 32768)
    assert (sft_part.optimisation.learning_rate, sft_part.optimisation.warmup, sft_part.epochs) == (5e-6, 0.1, 1)
    assert (sft_part.optimisation.schedule, sft_part.freeze_vision) == ("cosine", True)
    assert (rl.questions_per_step, rl.num_rollouts, rl.updates_per_step) == (128, 16, 4)
    assert (rl.optimisation.learning_rate, rl.optimisation.schedule, rl.temperature) == (1e-6, "constant", 1)
    assert (rl.clip.low, rl.clip.high, rl.kl_weight, rl.entropy_weight) == (0.2, 0.27, 0.001, 0.001)
    reward = rl.reward
    assert (reward.accuracy_weight, reward.format_weight, reward.tool_bonus) == (0.9, 0.1, 0.5)
    assert reward.target_zoom_rate == 0.5
