"""mrope_append in torch: the truth that the other implementations are tested against.

Letters: see `vzoom.kernels.layout`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..layout import heads_first


class Arguments(NamedTuple):
    """What every implementation takes, in this order. `op.mrope_append` says what they are."""

    q_THD: Tensor | None
    k_TGD: Tensor
    v_TGD: Tensor
    cos_TR: Tensor | None
    sin_TR: Tensor | None
    k_pages: Tensor
    v_pages: Tensor
    slots_T: Tensor


def rotate(x_THD: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Rotate the pairs (i, i + R) of each head, as transformers does: in the dtype that x and cos promote to.

    Args:
        x_THD: T tokens, any number of heads.
        cos_TR: of the angle of each pair.
        sin_TR: of the same angles.

    Returns:
        x * cos + rotate_half(x) * sin, in the dtype of x.
    """
    half = x_THD.shape[-1] // 2
    cos, sin = cos_TR[:, None, :], sin_TR[:, None, :]
    first, second = x_THD[..., :half], x_THD[..., half:]
    return torch.cat((first * cos + -second * sin, second * cos + first * sin), dim=-1).to(x_THD.dtype)


def mrope_append(a: Arguments) -> None:
    """Rotate, then scatter the tokens that have a slot."""
    k_TGD = a.k_TGD
    if a.cos_TR is not None and a.sin_TR is not None:
        k_TGD = rotate(k_TGD, a.cos_TR, a.sin_TR)
        if a.q_THD is not None:
            a.q_THD.copy_(rotate(a.q_THD, a.cos_TR, a.sin_TR))
    keep = (a.slots_T >= 0).nonzero(as_tuple=True)[0]
    k_pages, v_pages = heads_first(a.k_pages), heads_first(a.v_pages)
    block_size = k_pages.shape[2]
    slots = a.slots_T[keep]
    block, offset = slots // block_size, slots % block_size
    k_pages[block, :, offset] = k_TGD[keep]
    v_pages[block, :, offset] = a.v_TGD[keep]
