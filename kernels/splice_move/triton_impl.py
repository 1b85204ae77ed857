"""splice_move in Triton: one program per layer, token and tile of heads; K and V in the same program.

A program reads both halves of its heads before it writes, so a token may move onto itself.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..gpu import check_gpu_dtype, on_device_of, power_of_2, warps_for
from ..layout import heads_first
from ..mrope_append.triton_impl import HEAD_TILE, rotate_halves
from .reference import Arguments


@triton.jit
def splice_move_kernel(  # type: ignore[no-untyped-def]
    k_pages,
    v_pages,
    sources,
    targets,
    cos,
    sin,
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
    R: tl.constexpr,
    R_PAD: tl.constexpr,
    HEAD_TILE: tl.constexpr,
    ROTATE: tl.constexpr,
):
    source = tl.load(sources + tl.program_id(0))
    target = tl.load(targets + tl.program_id(0))
    layer = tl.program_id(2).to(tl.int64)
    head = tl.program_id(1) * HEAD_TILE + tl.arange(0, HEAD_TILE)
    pair = tl.arange(0, R_PAD)
    mask = (head < kv_heads)[:, None] & (pair < R)[None, :] & (source >= 0) & (target >= 0)
    head64 = head.to(tl.int64)[:, None]
    from_block, from_offset = source // block_size, source % block_size
    to_block, to_offset = target // block_size, target % block_size

    inside = layer * k_layer + head64 * k_head + pair[None, :]
    at = k_pages + from_block * k_block + from_offset * k_offset + inside
    to = k_pages + to_block * k_block + to_offset * k_offset + inside
    first, second = tl.load(at, mask=mask), tl.load(at + R, mask=mask)
    if ROTATE:
        c = tl.load(cos + pair, mask=pair < R, other=0.0)[None, :]
        s = tl.load(sin + pair, mask=pair < R, other=0.0)[None, :]
        rotated, rotated_second = rotate_halves(first.to(tl.float32), second.to(tl.float32), c, s)
        first, second = rotated.to(first.dtype), rotated_second.to(first.dtype)
    tl.store(to, first, mask=mask)
    tl.store(to + R, second, mask=mask)

    inside = layer * v_layer + head64 * v_head + pair[None, :]
    at = v_pages + from_block * v_block + from_offset * v_offset + inside
    to = v_pages + to_block * v_block + to_offset * v_offset + inside
    first, second = tl.load(at, mask=mask), tl.load(at + R, mask=mask)
    tl.store(to, first, mask=mask)
    tl.store(to + R, second, mask=mask)


def splice_move(a: Arguments) -> None:
    """Run the op."""
    check_gpu_dtype("k_pages", a.k_pages)
    kp, vp = heads_first(a.k_pages), heads_first(a.v_pages)
    layers, _, kv_heads, block_size, dim = kp.shape
    tokens = a.sources_T.shape[0]
    if dim % 2:
        raise ValueError(f"head_dim must be even, got {dim}")
    if tokens == 0 or layers == 0:
        return
    with on_device_of(a.k_pages):
        splice_move_kernel[(tokens, triton.cdiv(kv_heads, HEAD_TILE), layers)](
            a.k_pages,
            a.v_pages,
            a.sources_T.contiguous(),
            a.targets_T.contiguous(),
            a.cos_R.contiguous() if a.cos_R is not None else None,
            a.sin_R.contiguous() if a.sin_R is not None else None,
            *kp.stride()[:4],
            *vp.stride()[:4],
            kv_heads,
            block_size,
            R=dim // 2,
            R_PAD=power_of_2(dim // 2),
            HEAD_TILE=HEAD_TILE,
            ROTATE=a.cos_R is not None,
            num_warps=warps_for(HEAD_TILE * power_of_2(dim // 2), a.k_pages.element_size()),
        )
