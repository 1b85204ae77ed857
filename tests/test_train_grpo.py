"""`run_grpo`: what it leaves, that a stopped run resumes undisturbed, and that two processes are as one."""

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
from vzoom.train.common import setup
from vzoom.train.common.checkpoints import TrainingLog, mark_complete, newest_complete
from vzoom.train.common.collate import CollatedBatch
from vzoom.train.common.features import FrozenFeatures, Pixels
from vzoom.train.rl.collapse import CollapseLimits
from vzoom.train.rl.logprob_mismatch import LogprobMismatchError
from vzoom.zoomer import embedded_path

from . import grpo_run
from .grpo_run import PART, RECIPE
from .killing import killed_again_and_again
from .training import WORLD

pytest.importorskip("trl")

from vzoom.train.rl import grpo_step, trl_adapter
from vzoom.train.rl.grpo import run_grpo
from vzoom.train.rl.trl_adapter import check_trainer, trainer_class

SEEN = {"features": FrozenFeatures, "pixels": Pixels}  # what a batch's image tokens are filled with


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
    return newest_complete(out / "checkpoints")[0].joinpath("model.safetensors").read_bytes()  # type: ignore[index]


def test_a_run_leaves_the_best_model_and_a_log(finished: Path, world: Path) -> None:
    log = rows(finished)
    assert [row["step"] for row in log] == [1, 2, 3, 4]
    assert [row["update"] for row in log] == [2, 4, 6, 8]
    for name in ("loss", "kl", "entropy", "reward", "accuracy", "zoom_rate", "format_rate", "tokens", "keep_rate",
                 "clip_ratio/low_mean", "clip_ratio/high_mean", "logprob_mismatch", "grad_norm"):  # fmt: skip
        assert all(row[name] is not None for row in log), name
    assert all(row["logprob_mismatch"] < 1e-5 for row in log)
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


def test_another_recipe_does_not_resume_in_the_folder(finished: Path, world: Path) -> None:
    other = replace(RECIPE, grpo=replace(PART, temperature=1.4))
    with pytest.raises(ValueError, match="of another recipe or base"):
        run_grpo(other, base=embedded_path(), questions=world / "training" / "questions", out=finished)


def test_a_position_bug_stops_the_run(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = policy_module.collate

    def wrong(*args: Any, **settings: Any) -> CollatedBatch:
        batch = right(*args, **settings)
        shape = batch.tokens["position_ids"].shape
        batch.tokens["position_ids"] = torch.arange(shape[-1]).expand(shape)
        return batch

    monkeypatch.setattr(policy_module, "collate", wrong)
    with pytest.raises(LogprobMismatchError, match=r"most in which-training-\d+-0, rollout \d, turn \d, its token \d+"):
        run_grpo(RECIPE, base=embedded_path(), questions=world / "training" / "questions", out=tmp_path / "out")
    assert not (tmp_path / "out" / "log.jsonl").read_text()


@pytest.mark.parametrize("vision", ["features", "pixels"])
def test_a_micro_batch_is_collated_once(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vision: str
) -> None:
    """For the log-probabilities of policy and reference before the updates, and for the loss after them."""
    is_cached = vision == "features"
    collated: list[CollatedBatch] = []
    found: list[int] = []
    scored: list[str] = []
    right, right_find, right_score = policy_module.collate, SEEN[vision].find, policy_module.token_logprobs

    def collate(*args: Any, **settings: Any) -> CollatedBatch:
        collated.append(right(*args, **settings))
        return collated[-1]

    def find(self: Any, samples: Any) -> Any:
        found.append(len(samples))
        return right_find(self, samples)

    def score(model: Any, batch: Any, **settings: Any) -> Any:
        scored.append("loss" if torch.is_grad_enabled() else "before")
        return right_score(model, batch, **settings)

    monkeypatch.setattr(policy_module, "collate", collate)
    monkeypatch.setattr(SEEN[vision], "find", find)
    for module in (grpo_step, trl_adapter):
        monkeypatch.setattr(module, "token_logprobs", score)
    part = replace(PART, steps=2, cache_features=is_cached, freeze_vision=is_cached)
    run_grpo(replace(RECIPE, grpo=part), base=embedded_path(), questions=world / "training" / "questions", out=tmp_path)
    num_micro_batches = part.steps * part.questions_per_step * part.num_rollouts // part.micro_batch_size
    assert len(collated) == len(found) == num_micro_batches
    assert scored.count("before") == 2 * num_micro_batches  # policy and reference
    assert scored.count("loss") == num_micro_batches
    assert all("pixel_values" in batch.pixels and "pixel_values" not in batch.tokens for batch in collated)


def test_the_memory_that_it_takes_is_said_before_anything_is_loaded(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loaded(Exception):
        pass

    def load(*_: Any, **__: Any) -> None:
        raise Loaded

    said: list[str] = []
    monkeypatch.setattr(setup, "load_checkpoint", load)
    with pytest.raises(Loaded):
        run_grpo(
            RECIPE,
            base=embedded_path(),
            questions=world / "training" / "questions",
            out=tmp_path,
            say=said.append,
        )
    assert [line.partition(" GB per device: ")[0].rpartition(" ")[0] for line in said] == ["grpo will take about"]
    assert "reference" in said[0]  # kl_weight is above 0


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


def test_a_trainer_of_another_trl_says_which_is_needed() -> None:
    from trl import GRPOTrainer

    check_trainer(GRPOTrainer)
    assert issubclass(trainer_class(), GRPOTrainer)

    class Newer(GRPOTrainer):
        def _compute_loss(self, model: Any, batch: Any) -> Any: ...

    with pytest.raises(ImportError, match=r"GRPOTrainer\._compute_loss takes no inputs.*trl>=1\.16,<1\.17"):
        check_trainer(Newer)

    class Gone:
        pass

    with pytest.raises(ImportError, match=r"GRPOTrainer\._prepare_inputs is gone.*trl>=1\.16,<1\.17"):
        check_trainer(Gone)


# ---------------------------------------------------------------- files


def test_only_complete_checkpoints_are_resumed_from(tmp_path: Path) -> None:
    assert newest_complete(tmp_path) is None
    for step in (2, 10, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
    state = {"identity": {}, "best": None, "progress": {}}
    (tmp_path / "checkpoint-10" / "a").write_text("abc")
    mark_complete(tmp_path / "checkpoint-2", state | {"step": 2})
    mark_complete(tmp_path / "checkpoint-10", state | {"step": 10})
    newest, held = newest_complete(tmp_path) or (None, {})
    assert (newest, held["step"], held["files"]) == (tmp_path / "checkpoint-10", 10, {"a": 3})
    assert not (tmp_path / "checkpoint-12").exists()
    (tmp_path / "checkpoint-10" / "a").write_text("ab")
    with pytest.raises(ValueError, match=r"checkpoint-10/a is damaged \(it has 2 of 3 bytes\): remove .*checkpoint-10"):
        newest_complete(tmp_path)
    (tmp_path / "checkpoint-10" / "progress.json").write_text('{"step": ')
    with pytest.raises(ValueError, match=r"checkpoint-10/progress.json is damaged .*: remove .*checkpoint-10"):
        newest_complete(tmp_path)


def test_the_log_forgets_what_will_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    TrainingLog(path, step=2).add({"step": 3, "again": True})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "again": True},
    ]


# ---------------------------------------------------------------- processes

_RUN = str(Path(__file__).with_name("grpo_run.py"))


@pytest.mark.slow
def test_killed_it_resumes_as_if_nothing_had_happened(finished: Path, world: Path, tmp_path: Path) -> None:
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
