"""merge_states in torch, in float32 or better.

T tokens, H heads, D head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor


def merge_states(
    out_a_THD: Tensor, lse_a_TH: Tensor, out_b_THD: Tensor, lse_b_TH: Tensor, out_THD: Tensor, lse_TH: Tensor | None
) -> None:
    exact = torch.promote_types(out_a_THD.dtype, torch.float32)
    lse_a, lse_b = lse_a_TH.to(exact), lse_b_TH.to(exact)
    both = torch.logaddexp(lse_a, lse_b)  # -inf where neither side saw a key
    reachable = both > -torch.inf
    merged = torch.zeros_like(out_a_THD, dtype=exact)
    for out, lse in ((out_a_THD, lse_a), (out_b_THD, lse_b)):
        weight = torch.where(reachable, (lse - both).exp(), 0)[..., None]
        # A side without keys may hold anything, NaN too: it must not be multiplied by 0.
        merged += torch.where(weight > 0, out.to(exact) * weight, 0)
    out_THD.copy_(merged)
    if lse_TH is not None:
        lse_TH.copy_(both)
