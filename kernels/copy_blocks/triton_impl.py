"""copy_blocks in Triton: one program a layer, pair and piece of a block; K and V in the same program.

A block's memory is read as rows of head_dim, so pages may lie in any order of dimensions.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..gpu import on_device_of, power_of_2, warps_for
from ..layout import layered_heads_first

ROWS = 32  # rows of head_dim a program


@triton.jit
def copy_blocks_kernel(  # type: ignore[no-untyped-def]
    k_pages,
    v_pages,
    sources,
    targets,
    k_layer,
    k_block,
    k_head,
    k_offset,
    v_layer,
    v_block,
    v_head,
    v_offset,
    groups,
    block_size,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    ROWS: tl.constexpr,
):
    layer = tl.program_id(2).to(tl.int64)
    source = tl.load(sources + tl.program_id(0))
    target = tl.load(targets + tl.program_id(0))
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    dim = tl.arange(0, D_PAD)
    wanted = (source >= 0) & (target >= 0)
    mask = (row < groups * block_size)[:, None] & (dim < D)[None, :] & wanted
    # Heads run fastest: in pages of a GPU consecutive rows then lie together.
    head, offset = (row % groups).to(tl.int64)[:, None], (row // groups).to(tl.int64)[:, None]
    inside = layer * k_layer + head * k_head + offset * k_offset + dim[None, :]
    tl.store(k_pages + target * k_block + inside, tl.load(k_pages + source * k_block + inside, mask=mask), mask=mask)
    inside = layer * v_layer + head * v_head + offset * v_offset + dim[None, :]
    tl.store(v_pages + target * v_block + inside, tl.load(v_pages + source * v_block + inside, mask=mask), mask=mask)


def copy_blocks(k_pages: Tensor, v_pages: Tensor, sources_N: Tensor, targets_N: Tensor) -> None:
    kp, vp = layered_heads_first(k_pages), layered_heads_first(v_pages)
    layers, _, groups, block_size, dim = kp.shape
    pairs = sources_N.shape[0]
    if pairs == 0 or layers == 0:
        return
    with on_device_of(k_pages):
        copy_blocks_kernel[(pairs, triton.cdiv(groups * block_size, ROWS), layers)](
            k_pages,
            v_pages,
            sources_N.contiguous(),
            targets_N.contiguous(),
            *kp.stride()[:4],
            *vp.stride()[:4],
            groups,
            block_size,
            D=dim,
            D_PAD=power_of_2(dim),
            ROWS=ROWS,
            num_warps=warps_for(ROWS * power_of_2(dim), k_pages.element_size()),
        )
