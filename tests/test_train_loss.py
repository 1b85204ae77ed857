"""TRL's GRPO loss, as our adapter feeds it, against values made by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from vzoom.train.common.collate import CollatedBatch
from vzoom.train.recipes.recipe import GRPORecipe, Optimisation
from vzoom.train.rl.grpo_step import MicroBatch
from vzoom.train.rl.trl_adapter import loss_inputs
from vzoom.zoomer import embedded_path


def logs(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log().float()


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real trainer of the recipe's settings; its model is never run."""
    pytest.importorskip("trl")
    from vzoom.train.common.policy import load_policy
    from vzoom.train.common.trl_settings import grpo_config
    from vzoom.train.rl.grpo import numbers_of_questions
    from vzoom.train.rl.trl_adapter import no_reward, trainer_class

    part = GRPORecipe(
        Optimisation(1e-6), questions_per_step=2, num_rollouts=2, updates_per_step=1, micro_batch_size=4, kl_weight=0.1,
        entropy_weight=0.2,
    )  # fmt: skip
    base = str(embedded_path())
    policy = load_policy(base, part)
    made = trainer_class()(
        model=policy.model,
        reward_funcs=no_reward,
        args=grpo_config(part, tmp_path_factory.mktemp("out"), seed=0),
        train_dataset=numbers_of_questions(part),
        processing_class=policy.tokenizer,
    )
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    return made


def loss_of(
    trainer: Any,
    monkeypatch: pytest.MonkeyPatch,
    logp: torch.Tensor,
    *,
    old: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    ref: torch.Tensor | None = None,
    entropy: torch.Tensor | None = None,
    kl_weight: float = 0.0,
    entropy_weight: float = 0.0,
    count: int | None = None,
) -> torch.Tensor:
    entropies = torch.zeros_like(logp) if entropy is None else entropy
    monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", lambda *_, **__: (logp, entropies, None))
    monkeypatch.setattr(trainer, "beta", kl_weight)
    monkeypatch.setattr(trainer, "entropy_coef", entropy_weight)
    ids = torch.zeros(logp.shape, dtype=torch.long)
    nothing = CollatedBatch({}, {}, {}, rows_per_token=1, ids=())
    micro_batch = MicroBatch(nothing, ids, ids, mask, advantages, old, ref)
    return trainer._compute_loss(trainer.model, loss_inputs(micro_batch, torch.tensor(float(count or mask.sum()))))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.2, 2.0, -2.4, -2.4),
        (1.26, 2.0, -2.52, -2.52),  # above 1 + low: only clip-higher leaves it its gradient
        (1.5, 2.0, -2.54, 0.0),  # held at 1.27
        (0.5, 2.0, -1.0, -1.0),  # a good token that became rare is raised
        (0.5, -2.0, 1.6, 0.0),  # held at 0.8
        (0.9, -2.0, 1.8, 1.8),
        (1.5, -2.0, 3.0, 3.0),  # a bad token that became frequent is lowered
    ],
)
def test_clip_higher_by_hand(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, ratio: float, advantage: float, loss: float, gradient: float
) -> None:
    logp = logs([0.1 * ratio]).requires_grad_()
    made = loss_of(
        trainer, monkeypatch, logp, old=logs([0.1]), advantages=torch.tensor([[advantage]]), mask=torch.tensor([[True]])
    )
    (slope,) = torch.autograd.grad(made, logp)
    assert (made.item(), slope.item()) == pytest.approx((loss, gradient), rel=1e-5, abs=1e-6)


def test_a_whole_batch_by_hand(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Rollout 0 (A = 1): ratios 1.5 and 1; rollout 1 (A = −0.5): ratio 0.5, and a place that is only filled.
    logp = logs([0.3, 0.4], [0.1, 0.9]).requires_grad_()
    old = logs([0.2, 0.4], [0.2, 0.1])
    weight = torch.tensor([[0.5, 2.0], [1.0, 0.0]])  # of truncated importance sampling
    made = loss_of(
        trainer,
        monkeypatch,
        logp,
        old=old,
        advantages=torch.tensor([[1.0], [-0.5]]) * weight,
        mask=torch.tensor([[True, True], [True, False]]),
        ref=logs([0.6, 0.4], [0.2, 0.2]),  # ref / policy: 2, 1, 2
        entropy=torch.tensor([[0.3, 0.6], [0.9, 100.0]]),
        kl_weight=0.1,
        entropy_weight=0.2,
    )
    two = 1 - math.log(2)  # k3 of a ratio of 2
    tokens = [0.5 * -1.27 + 0.1 * two, 2.0 * -1.0, 1.0 * 0.4 + 0.1 * two]
    assert made.item() == pytest.approx(sum(tokens) / 3 - 0.2 * 0.6, rel=1e-5)
    (slope,) = torch.autograd.grad(made, logp)
    # d policy / d logp is −ratio · A where it is not held; d k3 / d logp = 1 − ref / policy.
    expected = torch.tensor([[0.1 * (1 - 2), -2.0], [0.1 * (1 - 2), 0.0]]) / 3
    assert torch.allclose(slope, expected, atol=1e-6)


def test_the_mean_is_over_the_tokens_of_all_micro_batches(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    logp = logs([0.5, 0.5])
    settings = {"old": logp, "advantages": torch.ones(1, 2), "mask": torch.tensor([[True, True]])}
    assert loss_of(trainer, monkeypatch, logp, **settings, count=8).item() == pytest.approx(-2 / 8)


def test_a_place_that_nobody_fills_costs_nothing(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    logp = logs([0.3], [0.3]).requires_grad_()
    made = loss_of(
        trainer,
        monkeypatch,
        logp,
        old=logs([0.3], [0.1]),
        advantages=torch.tensor([[1.0], [5.0]]),
        mask=torch.tensor([[True], [False]]),
        entropy=torch.tensor([[0.0], [3.0]]),
        entropy_weight=0.1,
    )
    assert made.item() == pytest.approx(-1.0)
    assert torch.autograd.grad(made, logp)[0].tolist() == [[-1.0], [0.0]]
