"""rms_norm in torch, rounded where transformers rounds.

T tokens, H heads, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x_THD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    exact = x_THD.to(torch.promote_types(x_THD.dtype, torch.float32))
    scale = torch.rsqrt(exact.square().mean(-1, keepdim=True) + epsilon)
    return weight_D * (exact * scale).to(x_THD.dtype)
