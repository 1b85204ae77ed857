"""mrope_append in torch: the truth that the other implementations are tested against.

T tokens, H query heads, G key/value heads, D head_dim, R = D / 2 rotation pairs (i, i + R).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..layout import heads_first


def rotate(x_THD: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """x * cos + rotate_half(x) * sin, as transformers computes it: in the dtype that x and cos promote to."""
    half = x_THD.shape[-1] // 2
    cos, sin = cos_TR[:, None, :], sin_TR[:, None, :]
    first, second = x_THD[..., :half], x_THD[..., half:]
    return torch.cat((first * cos + -second * sin, second * cos + first * sin), dim=-1).to(x_THD.dtype)


def mrope_append(
    q_THD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    cos_TR: Tensor,
    sin_TR: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    slots_T: Tensor,
) -> None:
    q_THD.copy_(rotate(q_THD, cos_TR, sin_TR))
    keep = (slots_T >= 0).nonzero(as_tuple=True)[0]
    k_pages, v_pages = heads_first(k_pages), heads_first(v_pages)
    block_size = k_pages.shape[2]
    slots = slots_T[keep]
    block, offset = slots // block_size, slots % block_size
    k_pages[block, :, offset] = rotate(k_TGD[keep], cos_TR[keep], sin_TR[keep])
    v_pages[block, :, offset] = v_TGD[keep]
