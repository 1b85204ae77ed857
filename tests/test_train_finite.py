"""A training that meets NaN or infinity ends at that update, says where, and keeps nothing of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpo_run
import pytest
import test_pretrain
import torch
from safetensors.torch import load_file, save_file
from training import WORLD, ZOOM, lessons

from vzoom.synthetic.dataset import write_questions
from vzoom.train.common.callbacks import TrainingCallback
from vzoom.train.common.optim import NotFinite, check_finite
from vzoom.train.pretrain.pretrain import Pretraining
from vzoom.train.recipes.recipe import Optimisation, Recipe, SFTRecipe
from vzoom.train.rl.grpo import run_grpo
from vzoom.train.sft.sft import run_sft
from vzoom.zoomer import embedded_path

TENSOR = "model.language_model.layers.0.mlp.up_proj.weight"
PART = SFTRecipe(
    optimisation=Optimisation(1e-3),
    batch_size=2,
    micro_batch_size=2,
    epochs=1,
    gradient_checkpointing=False,
    eval_questions=1,
    eval_every=1,
    save_every=1,
)
Plant = Callable[[Any, int], None]
"""Plants a number that is none in update `at` of a trainer."""


def in_loss(trainer: Any, at: int) -> None:
    original = trainer.compute_loss

    def compute_loss(*args: Any, **kwargs: Any) -> Any:
        loss = original(*args, **kwargs)
        return loss * math.nan if trainer.state.global_step + 1 == at else loss

    trainer.compute_loss = compute_loss


def in_gradient(trainer: Any, at: int) -> None:
    parameter = dict(trainer.model.named_parameters())[TENSOR]

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        if trainer.state.global_step + 1 != at:
            return gradient
        spoilt = gradient.clone()
        spoilt[3, 5] = math.inf
        return spoilt

    parameter.register_hook(spoil)


def in_weight(trainer: Any, at: int) -> None:
    original = trainer.optimizer.step

    def step(*args: Any, **kwargs: Any) -> Any:
        done = original(*args, **kwargs)
        if trainer.state.global_step + 1 == at:
            with torch.no_grad():
                dict(trainer.model.named_parameters())[TENSOR][1, 2] = math.nan
        return done

    trainer.optimizer.step = step


def planted(monkeypatch: pytest.MonkeyPatch, plant: Plant, at: int) -> None:
    attach = TrainingCallback.attach

    def attached(self: TrainingCallback, trainer: Any, *, step: int) -> None:
        if trainer.optimizer is not None:
            plant(trainer, at)
        attach(self, trainer, step=step)

    monkeypatch.setattr(TrainingCallback, "attach", attached)


def assert_nothing_spoilt(out: Path, *, last_update: int) -> None:
    """No model is published, and what is kept is of updates before, and finite."""
    assert not (out / "model.safetensors").exists()
    steps = [int(path.name.rpartition("-")[2]) for path in (out / "checkpoints").glob("checkpoint-*")]
    assert max(steps, default=0) == last_update
    kept = list(out.rglob("*.safetensors"))
    assert kept
    for path in kept:
        for name, tensor in load_file(path).items():
            assert tensor.isfinite().all(), (path, name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return lessons(tmp_path_factory.mktemp("lessons"))


def run(data: tuple[Path, Path], out: Path) -> None:
    recipe = Recipe("test", "", ZOOM, sft=PART)
    run_sft(recipe, base=embedded_path(), data=data[1], eval_questions=data[0], out=out, say=lambda line: None)


@pytest.mark.parametrize(
    ("plant", "named"),
    [
        (in_loss, "update 2: the loss is NaN"),
        (in_gradient, f"update 2: the gradient of {TENSOR} is NaN"),
        (in_weight, f"update 2: the weight {TENSOR} is NaN"),
    ],
)
def test_sft_ends_at_that_update(
    plant: Plant, named: str, data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(monkeypatch, plant, at=2)
    with pytest.raises(NotFinite, match=f"{named}.*lower learning rate"):
        run(data, tmp_path)
    assert_nothing_spoilt(tmp_path, last_update=1)


def test_a_checkpoint_that_holds_nan_is_not_resumed_from(data: tuple[Path, Path], tmp_path: Path) -> None:
    run(data, tmp_path)
    newest = tmp_path / "checkpoints" / "checkpoint-3"
    weights = load_file(newest / "model.safetensors")
    good = (newest / "model.safetensors").read_bytes()
    weights[TENSOR][0, 0] = math.nan
    save_file(weights, newest / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"checkpoint-3 is damaged: {TENSOR} is NaN.*remove it"):
        run(data, tmp_path)
    (newest / "model.safetensors").write_bytes(good)
    state = torch.load(newest / "optimizer.pt", weights_only=True)
    state["state"][0]["exp_avg"].view(-1)[0] = math.inf
    torch.save(state, newest / "optimizer.pt")
    with pytest.raises(ValueError, match=r"checkpoint-3 is damaged: exp_avg of .* is NaN"):
        run(data, tmp_path)


@pytest.mark.parametrize("plant", [in_gradient, in_weight])
def test_grpo_ends_at_that_update(plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = tmp_path / "world"
    questions = write_questions(world, "which", 3, WORLD, zoom=grpo_run.ZOOM)
    recipe = replace(
        grpo_run.RECIPE,
        grpo=replace(grpo_run.PART, optimisation=Optimisation(1e-5, muon_learning_rate=1e-5), eval_questions=1),
    )
    planted(monkeypatch, plant, at=3)  # the first update of the second step
    with pytest.raises(NotFinite, match=f"update 3: the (gradient of|weight) {TENSOR}"):
        run_grpo(
            recipe,
            base=embedded_path(),
            questions=questions,
            eval_questions=questions,
            out=tmp_path / "out",
            say=lambda line: None,
        )
    assert_nothing_spoilt(tmp_path / "out", last_update=2)


@pytest.mark.parametrize("where", ["loss", "gradient", "weight", "state"])
def test_pretraining_ends_at_that_step(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Pretraining(replace(test_pretrain.small(), save_every=1), tmp_path, say=test_pretrain.quiet)
    run.train_step()
    run.save()
    parameter = dict(run.model.named_parameters())[TENSOR]
    if where == "loss":
        monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda logits, _: logits.sum() * math.nan)
    elif where == "gradient":
        parameter.register_hook(lambda gradient: gradient * math.inf)
    elif where == "weight":
        original = run.optimizer.step
        run.optimizer.step = lambda: (original(), parameter.data.view(-1)[:1].fill_(math.nan))  # type: ignore[method-assign]
    if where == "state":
        state = torch.load(tmp_path / "trainer.pt", weights_only=True)
        state["model"][TENSOR][0, 0] = math.nan
        torch.save(state, tmp_path / "trainer.pt")
        fresh = Pretraining(run.curriculum, tmp_path, say=test_pretrain.quiet)
        with pytest.raises(NotFinite, match=rf"trainer.pt is damaged: {TENSOR} is NaN.*remove it"):
            fresh.resume()
        return
    with pytest.raises(NotFinite, match=f"step 2.*{'loss' if where == 'loss' else where + '.*' + TENSOR}.* is NaN"):
        run.run()
    saved = torch.load(tmp_path / "trainer.pt", weights_only=True)
    assert saved["step"] == 1
    assert all(tensor.isfinite().all() for tensor in saved["model"].values())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"\x80\x04N.", b"x" * 4000])
def test_a_damaged_state_of_pretraining_is_one_line(content: bytes, tmp_path: Path) -> None:
    run = Pretraining(test_pretrain.small(), tmp_path, say=test_pretrain.quiet)
    (tmp_path / "trainer.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"trainer.pt is damaged \(.*\): remove it") as caught:
        run.resume()
    assert "\n" not in str(caught.value)


def test_what_is_checked() -> None:
    fine = [("a", torch.tensor([1e38, -1e38])), ("b", torch.zeros(0)), ("c", torch.tensor([1, 2]))]
    check_finite(fine, where="x", mend="y")
    check_finite([], where="x", mend="y")
    bad = [
        (name, torch.tensor([0.0, value]))
        for name, value in zip("pqrst", [math.nan, 1, math.inf, -math.inf, math.nan], strict=True)
    ]
    with pytest.raises(NotFinite, match=r"x p, r, s and 1 more is NaN or infinite, of 7 tensors: y"):
        check_finite([*fine, *bad, ("half", torch.ones(3, dtype=torch.bfloat16))], where="x", mend="y")
