"""`vzoom train` and `python -m vzoom.train`: what they hand on, and what they say of a wrong command."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from training import lessons

import vzoom
from vzoom import cli
from vzoom.train import command_line
from vzoom.train.launch import launcher
from vzoom.train.pipeline import pipeline
from vzoom.train.pretrain import pretrain
from vzoom.train.recipes import RECIPES, recipe_named
from vzoom.train.recipes.recipe import Recipe
from vzoom.train.rl import grpo
from vzoom.train.sft import sft
from vzoom.zoomer import embedded_path

Calls = list[tuple[Any, dict[str, Any]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What the stages are called with, in place of doing it."""
    seen: Calls = []

    def stage(*args: Any, **kwargs: Any) -> Path:
        seen.append((args, kwargs))
        return Path("made")

    monkeypatch.setattr(sft, "run_sft", stage)
    monkeypatch.setattr(grpo, "run_grpo", stage)
    monkeypatch.setattr(pretrain, "pretrain", stage)
    monkeypatch.setattr(pipeline, "run_pipeline", stage)
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


def test_pretrain(calls: Calls, tmp_path: Path) -> None:
    assert command_line.main(["pretrain", "ablation", "--out", str(tmp_path)]) == 0
    (curriculum, out), _ = calls[0]
    assert (curriculum, out) == (recipe_named("ablation").synthetic.curriculum, tmp_path)  # type: ignore[union-attr]


def train_by_cli(words: list[str]) -> int:
    return cli.main(["train", *words])


def test_pipeline(calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pipeline", "qwen2.5-vl-7b", "--out", str(tmp_path), "--questions", "q", "--launch", "torchrun -n 2"]
    assert train_by_cli([*words, "--eval-questions", "e", "--seed", "5"]) == 0
    ((recipe, out), kwargs) = calls[0]
    assert (recipe.name, recipe.seed, out) == ("qwen2.5-vl-7b", 5, tmp_path)
    del kwargs["say"]
    assert kwargs == {"questions": Path("q"), "eval_questions": Path("e"), "launch": ("torchrun", "-n", "2")}
    assert capsys.readouterr().out == f"{tmp_path / 'grpo'}\n"


def test_both_front_doors_are_one(calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sft", "qwen2.5-vl-3b-1gpu", "--out", str(tmp_path), "--data", "a", "--scale", "0.5"]
    for front_door in (command_line.main, train_by_cli):
        assert front_door(words) == 0
        assert capsys.readouterr().out == "made\n"
    assert calls[0] == calls[1]


def test_one_of_several_processes_prints_the_result(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert command_line.main(["pretrain", "tiny", "--out", str(tmp_path)]) == 0
    assert (len(calls), capsys.readouterr().out) == (1, "")


@pytest.mark.parametrize("words", [[], ["pipeline"], ["pretrain"], ["sft"], ["grpo"]])
def test_help_names_the_recipes_and_has_examples(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        train_by_cli([*words, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in RECIPES)
    assert "examples:\n  vzoom train " in out
    assert all(len(line) <= 120 for line in out.splitlines())


def test_ctrl_c_says_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run_pipeline", stopped)
    for front_door in (command_line.main, train_by_cli):
        assert front_door(["pipeline", "tiny", "--out", str(tmp_path)]) == 130
        assert "stopped by Ctrl-C: run the same command again to resume" in capsys.readouterr().err


def test_a_shipped_config_starts_its_processes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`--launch cpu2`: two processes train a model together."""
    _, data = lessons(tmp_path, num_videos=2)
    base = Path(shutil.copytree(embedded_path(), tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 32768  # as long as the recipe's conversations
    (base / "config.json").write_text(json.dumps(config))
    words = ["sft", "qwen2.5-vl-7b", "--base", str(base), "--data", str(data), "--launch", "cpu2"]
    words += ["--protocol", "vzoom-brief"]
    assert command_line.main([*words, "--out", str(tmp_path / "sft")]) == 0
    out, err = capfd.readouterr()
    assert "1 updates of 64 on 2 processes" in err
    assert out.splitlines().count(str(tmp_path / "sft")) == 1
    written = vzoom.load(tmp_path / "sft", device="cpu").config
    assert (written.max_zooms, written.protocol.name) == (4, "vzoom-brief")


def test_conversations_in_another_protocol_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, data = lessons(tmp_path, num_videos=1)
    words = ["sft", "qwen2.5-vl-7b", "--base", str(embedded_path()), "--data", str(data)]
    assert command_line.main([*words, "--out", str(tmp_path / "sft")]) == 2
    assert "is in the protocol vzoom-brief, and the recipe asks its questions in vzoom" in capsys.readouterr().err


def test_a_config_by_name_and_a_whole_command() -> None:
    assert launcher(None) == ()
    words = launcher("fsdp2")
    assert words[:3] == (sys.executable, "-m", "accelerate.commands.launch")
    assert Path(words[words.index("--config_file") + 1]).read_text().count("fsdp_version: 2") == 1
    assert launcher('"/my bin/accelerate" launch -x') == ("/my bin/accelerate", "launch", "-x")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["pretrain", "qwen2.5-vl-7b"], "Qwen2.5-VL-7B-Instruct: there is nothing to pretrain"),
        (["sft", "ablation", "--data", "a"], "pretrains its base .*--base"),
        (["sft", "qwen2.5-vl-7b", "--data", "a", "--scale", "0"], "scale must be above 0"),
    ],
)
def test_what_does_not_fit(
    words: list[str], problem: str, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    for front_door in (command_line.main, train_by_cli):
        assert front_door([*words, "--out", str(tmp_path)]) == 2
        assert re.search(problem, capsys.readouterr().err)
    assert not calls


def test_recipes_have_their_names() -> None:
    for name, summary in RECIPES.items():
        made = recipe_named(name)
        assert isinstance(made, Recipe)
        assert made.name == name
        assert summary
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
