"""SFT on TRL: what the loss is of, that a stopped run resumes undisturbed, and what is left on the disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killing import killed_again_and_again
from training import ZOOM, lessons

import vzoom
from vzoom.data.store import read
from vzoom.data.validate import InvalidRecord
from vzoom.train.common.policy import load_policy
from vzoom.train.common.samples import from_record
from vzoom.train.recipes.recipe import Lora, Optimisation, Recipe, SFTRecipe
from vzoom.train.sft import sft as module
from vzoom.train.sft.order import num_updates, order
from vzoom.train.sft.sft import run_sft
from vzoom.zoomer import embedded_path

BOTH = Optimisation(1e-3, muon_learning_rate=2e-3, warmup=0.2, schedule="cosine")
PART = SFTRecipe(
    optimisation=BOTH,
    batch_size=4,
    micro_batch_size=2,
    epochs=4,  # of 6 conversations: 6 updates
    gradient_checkpointing=False,
    eval_questions=2,
    eval_every=3,
    save_every=2,
)
RECIPE = Recipe("test", "", ZOOM, sft=PART)


class Stopped(Exception):
    pass


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return lessons(tmp_path_factory.mktemp("lessons"))


@pytest.fixture(scope="module")
def whole(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    return run(RECIPE, data, tmp_path_factory.mktemp("whole") / "out")


def run(
    recipe: Recipe, data: tuple[Path, Path], out: Path, *, say: Callable[[str], None] = quiet, **settings: Any
) -> Path:
    return run_sft(recipe, base=embedded_path(), data=data[1], eval_questions=data[0], out=out, say=say, **settings)


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in log_of(out)]


def test_the_loss_is_the_mean_over_learned_tokens_of_the_update(whole: Path, data: tuple[Path, Path]) -> None:
    policy = load_policy(str(embedded_path()), PART)
    samples = [from_record(record, policy.vocabulary) for record in read(data[1])]
    first = order(PART, np.array([len(s) for s in samples]), seed=0)[:4]
    total = count = 0.0
    for number in first:
        batch = policy.collate([samples[number]]).to("cpu")
        logits = policy.model(**{k: v for k, v in batch.items() if k != "labels"}).logits[0]
        learned = np.flatnonzero(samples[number].learned)  # the token at i is predicted from i − 1
        logp = logits.log_softmax(-1)[learned - 1, samples[number].ids[learned]]
        total -= float(logp.sum().detach())
        count += len(learned)
    assert losses(whole)[0] == pytest.approx(total / count, rel=1e-5)


def test_it_learns_and_leaves_a_model(whole: Path, data: tuple[Path, Path]) -> None:
    rows = log_of(whole)
    assert [row["step"] for row in rows] == list(range(1, 7))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert [row["step"] for row in rows if "eval/reward" in row] == [3, 6]
    summary = json.loads((whole / "sft.json").read_text())
    best = max(rows, key=lambda row: (row.get("eval/reward", -1), -row["step"]))
    assert (summary["best_update"], summary["best_reward"]) == (best["step"], best["eval/reward"])
    zoomer = vzoom.load(whole, device="cpu")
    assert zoomer.config == ZOOM
    base = vzoom.load(embedded_path(), device="cpu").checkpoint.model.hf.state_dict()
    made = zoomer.checkpoint.model.hf.state_dict()
    changed = {name for name, weight in base.items() if not torch.equal(weight, made[name])}
    assert changed == {name for name in base if ".visual." not in name and "inv_freq" not in name}


@pytest.mark.parametrize("stop_at", [1, 5])
def test_a_stopped_run_resumes(
    whole: Path, data: tuple[Path, Path], tmp_path: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before the first checkpoint, and after the second. What it had said of later updates is forgotten."""

    def stop(row: dict[str, Any], *rest: Any) -> str:
        if row["step"] == stop_at:
            raise Stopped
        return ""

    with monkeypatch.context() as patch:
        patch.setattr(module, "_line", stop)
        with pytest.raises(Stopped):
            run(RECIPE, data, tmp_path)
    half = tmp_path / "checkpoints" / "checkpoint-6"
    if stop_at > 4:  # a checkpoint that a kill cut short
        shutil.copytree(tmp_path / "checkpoints" / "checkpoint-4", half)
        (half / "progress.json").unlink()
    said: list[str] = []
    run(RECIPE, data, tmp_path, say=said.append)
    assert any("resumes after update 4" in text for text in said) == (stop_at > 4)
    assert losses(tmp_path) == losses(whole)
    assert (tmp_path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    said.clear()
    run(RECIPE, data, tmp_path, say=said.append)  # finished: nothing is trained again
    assert not any("loss" in text for text in said)
    with pytest.raises(ValueError, match="another recipe, base or data"):
        run(replace(RECIPE, seed=1), data, tmp_path)


@pytest.mark.slow
def test_killed_it_resumes_as_if_nothing_had_happened(whole: Path, data: tuple[Path, Path], tmp_path: Path) -> None:
    out, script = tmp_path / "out", tmp_path / "run.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_train_sft import *\n"
        "from vzoom.interrupts import run_until_signal\n"
        "def main():\n"
        f"    run(RECIPE, (Path({str(data[0])!r}), Path({str(data[1])!r})), Path({str(out)!r}))\n"
        "    return 0\n"
        "sys.exit(run_until_signal(main, line='stopped by {}'.format, is_program=True))\n"
    )
    killed_again_and_again([sys.executable, str(script)], out, lines=6, seed=2)
    assert losses(out) == losses(whole)
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_two_processes_give_the_losses_of_one(data: tuple[Path, Path], tmp_path: Path) -> None:
    """By AdamW: Muon's bfloat16 iterations would turn the last digits of gradients into more than that."""
    part = replace(PART, optimisation=Optimisation(1e-4), micro_batch_size=1, epochs=2, eval_questions=2)
    recipe = replace(RECIPE, sft=part)
    run(recipe, data, tmp_path / "one")
    script = tmp_path / "two.py"
    script.write_text(
        "from test_train_sft import *\n"
        "part = replace(PART, optimisation=Optimisation(1e-4), micro_batch_size=1, epochs=2, eval_questions=2)\n"
        f"data = Path({str(data[0])!r}), Path({str(data[1])!r})\n"
        f"run(replace(RECIPE, sft=part), data, Path({str(tmp_path / 'two')!r}))\n"
    )
    root = Path(__file__).parents[1]
    config = root / "vzoom" / "train" / "accelerate_configs" / "cpu2.yaml"
    paths = os.pathsep.join((str(root), str(root / "tests")))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    made = subprocess.run(
        [*command, "--main_process_port", "0", str(script)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    rewards = [[row.get("eval/reward") for row in log_of(tmp_path / name)] for name in ("one", "two")]
    assert rewards[0] == rewards[1]


def test_adapters_are_merged_in_what_is_kept(data: tuple[Path, Path], tmp_path: Path) -> None:
    part = replace(
        PART,
        optimisation=Optimisation(1e-3),
        lora=Lora(rank=4, alpha=8),
        epochs=2,
        eval_questions=0,
        gradient_checkpointing=True,
    )
    out = run_sft(replace(RECIPE, sft=part), base=embedded_path(), data=data[1], out=tmp_path, say=quiet)
    assert (tmp_path / "checkpoints" / "checkpoint-3" / "adapter_model.safetensors").exists()
    base = vzoom.load(embedded_path(), device="cpu").checkpoint.model.hf.state_dict()
    made = vzoom.load(out, device="cpu").checkpoint.model.hf.state_dict()
    assert made.keys() == base.keys()
    changed = {name.split(".")[-2] for name in base if not torch.equal(made[name], base[name])}
    assert changed == {f"{x}_proj" for x in ("q", "k", "v", "o", "gate", "up", "down")}


def test_what_cannot_be_trained(data: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidRecord, match="a question without turns"):
        run_sft(RECIPE, base=embedded_path(), data=data[0], out=tmp_path, say=quiet)
    with pytest.raises(ValueError, match="no records to train on"):
        run_sft(RECIPE, base=embedded_path(), data=[], out=tmp_path, say=quiet)
    record = next(iter(read(data[1])))
    flawed = replace(record, turns=tuple(replace(turn, flawed=True) for turn in record.turns))
    with pytest.raises(ValueError, match="none of 1 conversations has a turn to learn"):
        run_sft(RECIPE, base=embedded_path(), data=[flawed], out=tmp_path, say=quiet)


def test_the_order_is_a_function_of_recipe_and_seed() -> None:
    lengths = np.arange(10) * 10
    part = replace(PART, batch_size=4, epochs=2)  # 20 draws: 5 updates
    assert num_updates(part, 10) == 5
    rows = order(part, lengths, seed=3)
    assert rows == order(part, lengths, seed=3) != order(part, lengths, seed=4)
    assert sorted(rows[:4] + rows[4:8] + rows[8:12] + rows[12:]) == sorted([*range(10)] * 2)
    assert all(rows[i : i + 4] == sorted(rows[i : i + 4], reverse=True) for i in range(0, 20, 4))
    assert num_updates(replace(part, epochs=0.1), 10) == 1
