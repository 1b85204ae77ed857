"""merge_states in torch, in float32 or better.

Letters: see `vzoom.kernels.layout`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Arguments(NamedTuple):
    """What every implementation takes, in this order. `op.merge_states` says what they are."""

    out_a_THD: Tensor
    lse_a_TH: Tensor
    out_b_THD: Tensor
    lse_b_TH: Tensor
    out_THD: Tensor
    lse_TH: Tensor | None


def merge_states(a: Arguments) -> None:
    """Weight each side by exp(its LSE - the LSE of both)."""
    exact = torch.promote_types(a.out_a_THD.dtype, torch.float32)
    lse_a, lse_b = a.lse_a_TH.to(exact), a.lse_b_TH.to(exact)
    both = torch.logaddexp(lse_a, lse_b)  # -inf if neither side saw a key
    reachable = both > -torch.inf
    merged = torch.zeros_like(a.out_a_THD, dtype=exact)
    for out, lse in ((a.out_a_THD, lse_a), (a.out_b_THD, lse_b)):
        weight = torch.where(reachable, (lse - both).exp(), 0)[..., None]
        # A side without keys may hold anything, NaN too: it must not be multiplied by 0.
        merged += torch.where(weight > 0, out.to(exact) * weight, 0)
    a.out_THD.copy_(merged)
    if a.lse_TH is not None:
        a.lse_TH.copy_(both)
