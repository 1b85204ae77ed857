"""One optimizer of two kinds: who takes what, schedules reach both, and its state goes through a checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from vzoom.train.common.optim import make_optimizer
from vzoom.train.recipes.recipe import Optimisation
from vzoom.zoomer import embedded_path

BOTH = Optimisation(1e-3, muon_learning_rate=1e-2, weight_decay=0.1)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 4))


def test_matrices_go_to_muon_and_tables_do_not() -> None:
    hf = AutoModelForImageTextToText.from_pretrained(embedded_path())
    hf.model.visual.requires_grad_(False)
    optimizer = make_optimizer(hf, BOTH)
    name_of = {p: name for name, p in hf.named_parameters()}
    muon, adamw = optimizer.param_groups
    assert (muon["kind"], muon["lr"], adamw["kind"], adamw["lr"]) == ("muon", 1e-2, "adamw", 1e-3)
    assert {name_of[p].split(".")[-2] for p in muon["params"]} == {
        *(f"{x}_proj" for x in ("q", "k", "v", "o", "gate", "up", "down"))
    }
    others = {name_of[p] for p in adamw["params"]}
    assert {"lm_head.weight", "model.language_model.embed_tokens.weight"} <= others
    trained = [p for p in hf.parameters() if p.requires_grad]
    assert len(muon["params"]) + len(adamw["params"]) == len(trained)


def test_it_steps_as_its_two_halves() -> None:
    ours, theirs = model(), model()
    optimizer = make_optimizer(ours, BOTH)
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    vectors = [p for p in theirs.parameters() if p.ndim != 2]
    halves = (
        torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1),
        torch.optim.AdamW(vectors, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.1),
    )
    x = torch.randn(3, 4)
    for _ in range(3):
        for net, steppers in ((ours, (optimizer,)), (theirs, halves)):
            net.zero_grad()
            net(x).pow(2).sum().backward()
            for stepper in steppers:
                stepper.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler) -> None:
    for number in range(3):
        net(torch.full((2, 4), 0.1 * number)).pow(2).sum().backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()


def test_a_checkpoint_goes_on_as_if_nothing_had_been() -> None:
    def make(net: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optimizer = make_optimizer(net, BOTH)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    net = model()
    optimizer, scheduler = make(net)
    train(net, optimizer, scheduler)
    saved = copy.deepcopy([x.state_dict() for x in (net, optimizer, scheduler)])
    train(net, optimizer, scheduler)

    resumed = model()
    other, its_scheduler = make(resumed)
    for x, state in zip((resumed, other, its_scheduler), saved, strict=True):
        x.load_state_dict(state)
    train(resumed, other, its_scheduler)
    for a, b in zip(net.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [group["lr"] for group in other.param_groups] == pytest.approx([1e-2 / 7, 1e-3 / 7])


def test_one_kind_alone() -> None:
    assert type(make_optimizer(model(), Optimisation(1e-3))) is torch.optim.AdamW
    with pytest.raises(ValueError, match="0 matrices for Muon and 2 other"):
        make_optimizer(nn.LayerNorm(4), BOTH)
