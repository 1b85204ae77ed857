"""Muon for the matrices, AdamW for embeddings, the head, norms, biases and the patch kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class TwoOptimizers:
    """Steps both; rates are set by the caller before each step."""

    def __init__(self, model: nn.Module, *, muon_lr: float, adam_lr: float) -> None:
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            is_matrix = parameter.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name
            groups.setdefault((is_matrix, ".visual." in name), []).append(parameter)
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
