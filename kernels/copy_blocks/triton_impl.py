"""copy_blocks in Triton: one program per layer, copy and piece of a block; K and V in the same program.

A block's memory is read as rows of head_dim, so pages may have any order of dimensions.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..gpu import on_device_of, power_of_2, warps_for
from ..layout import heads_first
from .reference import Arguments

ROWS = 32  # rows of head_dim per program


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
    kv_heads,
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
    mask = (row < kv_heads * block_size)[:, None] & (dim < D)[None, :] & wanted
    # Heads run fastest: in pages of a GPU consecutive rows then follow each other.
    head, offset = (row % kv_heads).to(tl.int64)[:, None], (row // kv_heads).to(tl.int64)[:, None]
    inside = layer * k_layer + head * k_head + offset * k_offset + dim[None, :]
    tl.store(k_pages + target * k_block + inside, tl.load(k_pages + source * k_block + inside, mask=mask), mask=mask)
    inside = layer * v_layer + head * v_head + offset * v_offset + dim[None, :]
    tl.store(v_pages + target * v_block + inside, tl.load(v_pages + source * v_block + inside, mask=mask), mask=mask)


def copy_blocks(a: Arguments) -> None:
    """Run the op."""
    kp, vp = heads_first(a.k_pages), heads_first(a.v_pages)
    layers, _, kv_heads, block_size, dim = kp.shape
    copies = a.sources_C.shape[0]
    if copies == 0 or layers == 0:
        return
    with on_device_of(a.k_pages):
        copy_blocks_kernel[(copies, triton.cdiv(kv_heads * block_size, ROWS), layers)](
            a.k_pages,
            a.v_pages,
            a.sources_C.contiguous(),
            a.targets_C.contiguous(),
            *kp.stride()[:4],
            *vp.stride()[:4],
            kv_heads,
            block_size,
            D=dim,
            D_PAD=power_of_2(dim),
            ROWS=ROWS,
            num_warps=warps_for(ROWS * power_of_2(dim), a.k_pages.element_size()),
        )
