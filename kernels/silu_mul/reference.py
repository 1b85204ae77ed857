"""silu_mul in torch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class Arguments(NamedTuple):
    """What every implementation takes, in this order. `op.silu_mul` says what they are."""

    gate_TF: Tensor
    up_TF: Tensor


def silu_mul(a: Arguments) -> None:
    """Two passes, in place."""
    F.silu(a.gate_TF, inplace=True).mul_(a.up_TF)
