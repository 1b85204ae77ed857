"""rms_norm in torch, rounded as transformers rounds.

Letters: T tokens, H heads, D features of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Arguments(NamedTuple):
    """What every implementation takes, in this order. `op.rms_norm` says what they are."""

    x_THD: Tensor
    weight_D: Tensor
    epsilon: float
    out_THD: Tensor


def normed(x: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    """Return what the op writes, for rows of any number of dimensions."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = torch.rsqrt(exact.square().mean(-1, keepdim=True) + epsilon)
    return weight_D * (exact * scale).to(x.dtype)


def rms_norm(a: Arguments) -> None:
    """Norm, then copy."""
    a.out_THD.copy_(normed(a.x_THD, a.weight_D, a.epsilon))
