"""Muon for the matrices, AdamW for embeddings, the head, norms, biases and the patch kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .recipe import Optimisation

_BETAS = (0.9, 0.98)  # of AdamW beside Muon; alone it has torch's own


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes it: a product's matrix, not a table of rows and not the head."""
    return parameter.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the matrices among `model`'s trained parameters, AdamW for the rest: one optimizer for schedulers,
    trainers and checkpoints. Its groups are "muon" and "adamw" (`group["kind"]`), each with a learning rate.

    Not for sharded matrices: Muon orthogonalises whole ones.
    """

    def __init__(self, model: nn.Module, settings: Optimisation) -> None:
        if settings.muon_learning_rate is None:
            raise ValueError(f"there is no muon_learning_rate in {settings}: `make_optimizer` takes AdamW then")
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        matrices = [p for n, p in named if is_matrix(n, p)]
        others = [p for n, p in named if not is_matrix(n, p)]
        if not matrices or not others:
            raise ValueError(
                f"{len(matrices)} matrices for Muon and {len(others)} other tensors for AdamW are in training: with "
                "only one kind set muon_learning_rate=None"
            )
        muon = [{"params": matrices, "kind": "muon"}]
        adamw = [{"params": others, "kind": "adamw"}]
        self._muon = torch.optim.Muon(muon, lr=settings.muon_learning_rate, weight_decay=settings.weight_decay)
        self._adamw = torch.optim.AdamW(
            adamw, lr=settings.learning_rate, betas=_BETAS, weight_decay=settings.weight_decay
        )
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})
        self._join()

    def _join(self) -> None:
        """Both halves work on the groups and the state of this optimizer."""
        for half, kind in ((self._muon, "muon"), (self._adamw, "adamw")):
            half.param_groups = [group for group in self.param_groups if group["kind"] == kind]
            half.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._join()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._muon.step()
        self._adamw.step()
        return loss


def make_optimizer(model: nn.Module, settings: Optimisation) -> torch.optim.Optimizer:
    """For the parameters of `model` that are in training. Rates are peaks: a scheduler moves them."""
    if settings.muon_learning_rate is not None:
        return MuonWithAdamW(model, settings)
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)


class TwoOptimizers:
    """Steps both; rates are set by the caller before each step."""

    def __init__(self, model: nn.Module, *, muon_lr: float, adam_lr: float) -> None:
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            groups.setdefault((is_matrix(name, parameter), ".visual." in name), []).append(parameter)
        both = (False, True)
        self.muon = torch.optim.Muon(
            [{"params": groups[True, is_vision], "vision": is_vision} for is_vision in both], weight_decay=0.05
        )
        self.adam = torch.optim.AdamW(
            [{"params": groups[False, is_vision], "vision": is_vision} for is_vision in both],
            betas=(0.9, 0.98),
            weight_decay=0.0,
        )
        self._parameters = [parameter for group in groups.values() for parameter in group]
        self.set_lr(muon_lr=muon_lr, adam_lr=adam_lr)

    def set_lr(self, *, muon_lr: float, adam_lr: float, vision_factor: float = 1.0) -> None:
        for optimizer, lr in ((self.muon, muon_lr), (self.adam, adam_lr)):
            for group in optimizer.param_groups:
                group["lr"] = lr * (vision_factor if group["vision"] else 1.0)

    def step(self, *, max_norm: float = 1.0) -> float:
        """Clip the gradient's norm, step, clear. Returns the norm before clipping."""
        norm = float(nn.utils.clip_grad_norm_(self._parameters, max_norm))
        self.muon.step()
        self.adam.step()
        self.muon.zero_grad(set_to_none=True)
        self.adam.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
