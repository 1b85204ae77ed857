"""silu_mul in torch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def silu_mul(gate_TF: Tensor, up_TF: Tensor) -> None:
    F.silu(gate_TF, inplace=True).mul_(up_TF)
