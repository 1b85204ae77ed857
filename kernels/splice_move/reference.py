"""splice_move in torch: gather tokens, rotate K in float32, scatter.

Letters: see `vzoom.kernels.layout`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..layout import heads_first
from ..mrope_append.reference import rotate


class Arguments(NamedTuple):
    """What every implementation takes, in this order. `op.splice_move` says what they are."""

    k_pages: Tensor
    v_pages: Tensor
    sources_T: Tensor
    targets_T: Tensor
    cos_R: Tensor | None
    sin_R: Tensor | None


def splice_move(a: Arguments) -> None:
    """Move layer by layer, so that the gathered copy stays small."""
    keep = ((a.sources_T >= 0) & (a.targets_T >= 0)).nonzero(as_tuple=True)[0]
    sources, targets = a.sources_T[keep], a.targets_T[keep]
    k, v = heads_first(a.k_pages), heads_first(a.v_pages)  # [L, N, G, P, D]
    size = k.shape[3]
    from_block, from_offset, to_block, to_offset = sources // size, sources % size, targets // size, targets % size
    for layer in range(k.shape[0]):
        moved = k[layer][from_block, :, from_offset]  # [T, G, D]
        if a.cos_R is not None and a.sin_R is not None:
            exact = torch.promote_types(moved.dtype, torch.float32)
            moved = rotate(moved.to(exact), a.cos_R[None].to(exact), a.sin_R[None].to(exact)).to(moved.dtype)
        k[layer][to_block, :, to_offset] = moved
        v[layer][to_block, :, to_offset] = v[layer][from_block, :, from_offset]
