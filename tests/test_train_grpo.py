"""`run_grpo`: what it leaves, that a stopped run goes on undisturbed, and that two processes are as one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import vzoom
from vzoom.synthetic.dataset import write_questions
from vzoom.train.common import policy as policy_module
from vzoom.train.common.checkpoints import Log, mark_whole, newest_whole
from vzoom.train.rl.collapse import CollapseLimits
from vzoom.train.rl.logprob_mismatch import ParityError
from vzoom.zoomer import embedded_path

from . import grpo_run
from .grpo_run import PART, RECIPE
from .killing import killed_again_and_again
from .training import WORLD

pytest.importorskip("trl")

from vzoom.train.rl.grpo import run_grpo
from vzoom.train.rl.trl_adapter import check_seam, trainer_class


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_questions(folder / "training", "which", 4, WORLD, zoom=grpo_run.ZOOM)
    write_questions(folder / "public", "which", 2, WORLD, zoom=grpo_run.ZOOM, namespace="public")
    return folder


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an undisturbed run."""
    out = tmp_path_factory.mktemp("run") / "out"
    grpo_run.main(str(world), str(out))
    return out


def rows(out: Path) -> list[dict[str, Any]]:
    """The log without what it took: seconds differ from run to run."""
    lines = (out / "log.jsonl").read_text().splitlines()
    timed = ("second", "time", "runtime")
    return [{k: v for k, v in json.loads(line).items() if not any(t in k for t in timed)} for line in lines]


def trained(out: Path) -> bytes:
    """The weights of the trainer's last checkpoint."""
    return newest_whole(out / "checkpoints")[0].joinpath("model.safetensors").read_bytes()  # type: ignore[index]


def test_a_run_leaves_the_best_model_and_a_log(finished: Path, world: Path) -> None:
    log = rows(finished)
    assert [row["step"] for row in log] == [1, 2, 3, 4]
    assert [row["update"] for row in log] == [2, 4, 6, 8]
    for name in ("loss", "kl", "entropy", "reward", "accuracy", "zoom_rate", "format_rate", "tokens", "keep_rate",
                 "clip_ratio/low_mean", "clip_ratio/high_mean", "sampler_gap", "grad_norm"):  # fmt: skip
        assert all(row[name] is not None for row in log), name
    assert all(row["sampler_gap"] < 1e-5 for row in log)
    assert log[0]["loss"] != log[1]["loss"]
    assert log[-1]["kl"] > 0  # the policy has moved away from the reference
    assert trained(finished) != (embedded_path() / "model.safetensors").read_bytes()
    summary = json.loads((finished / "grpo.json").read_text())
    evaluated = {0: None} | {row["step"]: row["eval/reward"] for row in log if "eval/reward" in row}
    assert set(evaluated) >= {0, 2, 4}
    assert summary["best_reward"] >= max(r for r in evaluated.values() if r is not None)
    assert (summary["steps"], summary["stopped"]) == (4, None)
    zoomer = vzoom.load(finished)
    assert zoomer.config == RECIPE.zoom
    video = next((world / "public" / "videos").glob("*.mp4"))
    assert zoomer.ask(video, "Which shape flashes in the red scene?\nA: star\nB: ring").trajectory.turns
    assert len(list(finished.glob("best-*"))) == 1
    assert any((finished / "checkpoints" / "runs").rglob("events*")) or not _has_tensorboard()


def _has_tensorboard() -> bool:
    import importlib.util

    return importlib.util.find_spec("tensorboard") is not None


def test_a_finished_run_is_not_repeated(finished: Path, world: Path) -> None:
    before = (finished / "log.jsonl").read_text(), trained(finished)
    grpo_run.main(str(world), str(finished))
    assert ((finished / "log.jsonl").read_text(), trained(finished)) == before


def test_another_recipe_does_not_go_on_in_the_folder(finished: Path, world: Path) -> None:
    other = replace(RECIPE, grpo=replace(PART, temperature=1.4))
    with pytest.raises(ValueError, match="of another recipe or base"):
        run_grpo(other, base=embedded_path(), questions=world / "training" / "questions", out=finished)


def test_a_position_bug_stops_the_run(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = policy_module.collate

    def wrong(*args: Any, **settings: Any) -> dict[str, torch.Tensor]:
        batch = right(*args, **settings)
        batch["position_ids"] = torch.arange(batch["input_ids"].shape[1]).expand(batch["position_ids"].shape)
        return batch

    monkeypatch.setattr(policy_module, "collate", wrong)
    with pytest.raises(ParityError, match=r"most in which-training-\d+-0, rollout \d, turn \d, its token \d+"):
        run_grpo(RECIPE, base=embedded_path(), questions=world / "training" / "questions", out=tmp_path / "out")
    assert not (tmp_path / "out" / "log.jsonl").read_text()


def test_a_collapse_ends_the_run_with_the_best_model(world: Path, tmp_path: Path) -> None:
    strict = CollapseLimits(min_zoom_rate=1.0, min_format_rate=1.0, patience=1)
    said: list[str] = []
    out = run_grpo(
        replace(RECIPE, grpo=replace(PART, collapse=strict, temperature=2.5)),
        base=embedded_path(),
        questions=world / "training" / "questions",
        out=tmp_path / "out",
        say=said.append,
    )
    summary = json.loads((out / "grpo.json").read_text())
    assert "the fraction of rollouts" in summary["stopped"]
    assert any(("stopped at step" in line and "lower the learning rate" in line) or "raise" in line for line in said)
    assert vzoom.load(out).config == RECIPE.zoom


def test_a_seam_that_is_gone_says_which_trl_is_needed() -> None:
    from trl import GRPOTrainer

    check_seam(GRPOTrainer)
    assert issubclass(trainer_class(), GRPOTrainer)

    class Newer(GRPOTrainer):
        def _compute_loss(self, model: Any, batch: Any) -> Any: ...

    with pytest.raises(ImportError, match=r"GRPOTrainer\._compute_loss takes no inputs.*trl>=1\.16,<1\.17"):
        check_seam(Newer)

    class Gone:
        pass

    with pytest.raises(ImportError, match=r"GRPOTrainer\._prepare_inputs is gone.*trl>=1\.16,<1\.17"):
        check_seam(Gone)


# ---------------------------------------------------------------- files


def test_only_whole_checkpoints_are_gone_on_from(tmp_path: Path) -> None:
    assert newest_whole(tmp_path) is None
    for step in (2, 10, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
    mark_whole(tmp_path / "checkpoint-2", {"a": 1})
    mark_whole(tmp_path / "checkpoint-10", {"a": 2})
    assert newest_whole(tmp_path) == (tmp_path / "checkpoint-10", {"a": 2})
    assert not (tmp_path / "checkpoint-12").exists()


def test_the_log_forgets_what_will_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    Log(path, step=2).add({"step": 3, "again": True})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "again": True},
    ]


# ---------------------------------------------------------------- processes

_RUN = str(Path(__file__).with_name("grpo_run.py"))


@pytest.mark.slow
def test_killed_it_goes_on_as_if_nothing_had_happened(finished: Path, world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed_again_and_again([sys.executable, _RUN, str(world), str(out)], out, lines=PART.steps, seed=1)
    assert rows(out) == rows(finished)
    assert trained(out) == trained(finished)
    assert (out / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(finished: Path, world: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, _RUN, str(world), str(tmp_path / "out")],
            env={**os.environ, **settings, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    one, two = rows(finished), rows(tmp_path / "out")
    assert len(one) == len(two) == 4
    for alone, together in zip(one, two, strict=True):
        for name in ("loss", "grad_norm"):
            assert together[name] == pytest.approx(alone[name], rel=1e-3, abs=1e-5)
        for name in ("reward", "zoom_rate", "tokens", "keep_rate", "groups"):
            assert together[name] == alone[name]
