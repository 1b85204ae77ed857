"""splice_move in torch: gather tokens, rotate K in float32, scatter.

N tokens, R = head_dim / 2 rotation pairs (i, i + R).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..layout import layered_heads_first
from ..mrope_append.reference import rotate


def splice_move(
    k_pages: Tensor,
    v_pages: Tensor,
    source_slots_N: Tensor,
    target_slots_N: Tensor,
    cos_R: Tensor | None,
    sin_R: Tensor | None,
) -> None:
    keep = ((source_slots_N >= 0) & (target_slots_N >= 0)).nonzero(as_tuple=True)[0]
    sources, targets = source_slots_N[keep], target_slots_N[keep]
    k, v = layered_heads_first(k_pages), layered_heads_first(v_pages)  # [L, blocks, G, block_size, D]
    size = k.shape[3]
    from_block, from_offset, to_block, to_offset = sources // size, sources % size, targets // size, targets % size
    for layer in range(k.shape[0]):  # a layer at a time: the gathered copy stays small
        moved = k[layer][from_block, :, from_offset]  # [N, G, D]
        if cos_R is not None and sin_R is not None:
            exact = torch.promote_types(moved.dtype, torch.float32)
            moved = rotate(moved.to(exact), cos_R[None].to(exact), sin_R[None].to(exact)).to(moved.dtype)
        k[layer][to_block, :, to_offset] = moved
        v[layer][to_block, :, to_offset] = v[layer][from_block, :, from_offset]
