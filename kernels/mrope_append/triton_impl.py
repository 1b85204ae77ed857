"""mrope_append in Triton: one program per token and tile of heads; q tiles first, then tiles of k and v."""

from __future__ import annotations

import triton
import triton.language as tl

from ..gpu import check_gpu_dtype, on_device_of, power_of_2, warps_for
from ..layout import heads_first
from .reference import Arguments

HEAD_TILE = 8  # heads per program; 8 heads of 128 bf16 are 2 KB


@triton.jit
def rotate_halves(first, second, cos, sin):  # type: ignore[no-untyped-def]
    """(x, y) of the pairs (i, i + R), rotated. Everything float32."""
    return first * cos - second * sin, second * cos + first * sin


@triton.jit
def mrope_append_kernel(  # type: ignore[no-untyped-def]
    q,
    k,
    v,
    cos,
    sin,
    k_pages,
    v_pages,
    slots,
    q_token,
    q_head,
    k_token,
    k_head,
    v_token,
    v_head,
    cos_token,
    sin_token,
    kp_block,
    kp_head,
    kp_offset,
    vp_block,
    vp_head,
    vp_offset,
    heads,
    kv_heads,
    block_size,
    R: tl.constexpr,
    R_PAD: tl.constexpr,
    HEAD_TILE: tl.constexpr,
    HAS_Q: tl.constexpr,
    ROTATE: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    q_tiles = tl.cdiv(heads, HEAD_TILE)
    pair = tl.arange(0, R_PAD)
    there = pair < R
    if ROTATE:
        c = tl.load(cos + token * cos_token + pair, mask=there, other=0.0).to(tl.float32)[None, :]
        s = tl.load(sin + token * sin_token + pair, mask=there, other=0.0).to(tl.float32)[None, :]

    if tile < q_tiles:
        if HAS_Q:
            head = tile * HEAD_TILE + tl.arange(0, HEAD_TILE)
            mask = (head < heads)[:, None] & there[None, :]
            at = q + token * q_token + head.to(tl.int64)[:, None] * q_head + pair[None, :]
            first = tl.load(at, mask=mask, other=0.0).to(tl.float32)
            second = tl.load(at + R, mask=mask, other=0.0).to(tl.float32)
            first, second = rotate_halves(first, second, c, s)
            tl.store(at, first.to(q.dtype.element_ty), mask=mask)
            tl.store(at + R, second.to(q.dtype.element_ty), mask=mask)
    else:
        head = (tile - q_tiles) * HEAD_TILE + tl.arange(0, HEAD_TILE)
        slot = tl.load(slots + token)
        mask = (head < kv_heads)[:, None] & there[None, :] & (slot >= 0)
        head64 = head.to(tl.int64)[:, None]
        block, offset = slot // block_size, slot % block_size
        at = k + token * k_token + head64 * k_head + pair[None, :]
        first = tl.load(at, mask=mask, other=0.0).to(tl.float32)
        second = tl.load(at + R, mask=mask, other=0.0).to(tl.float32)
        if ROTATE:
            first, second = rotate_halves(first, second, c, s)
        to = k_pages + block * kp_block + offset * kp_offset + head64 * kp_head + pair[None, :]
        tl.store(to, first.to(k_pages.dtype.element_ty), mask=mask)
        tl.store(to + R, second.to(k_pages.dtype.element_ty), mask=mask)
        at = v + token * v_token + head64 * v_head + pair[None, :]
        to = v_pages + block * vp_block + offset * vp_offset + head64 * vp_head + pair[None, :]
        tl.store(to, tl.load(at, mask=mask), mask=mask)
        tl.store(to + R, tl.load(at + R, mask=mask), mask=mask)


def mrope_append(a: Arguments) -> None:
    """Run the op."""
    q, k, cos, sin = a.q_THD, a.k_TGD, a.cos_TR, a.sin_TR
    check_gpu_dtype("k", k)
    tokens, kv_heads, dim = k.shape
    heads = 0 if q is None else q.shape[1]
    if tokens == 0:
        return
    kp, vp = heads_first(a.k_pages), heads_first(a.v_pages)
    pairs = dim // 2
    grid = (tokens, triton.cdiv(heads, HEAD_TILE) + triton.cdiv(kv_heads, HEAD_TILE))
    with on_device_of(k):
        mrope_append_kernel[grid](
            q,
            k,
            a.v_TGD,
            cos,
            sin,
            a.k_pages,
            a.v_pages,
            a.slots_T.contiguous(),
            *(q.stride()[:2] if q is not None else (0, 0)),
            *k.stride()[:2],
            *a.v_TGD.stride()[:2],
            cos.stride(0) if cos is not None else 0,
            sin.stride(0) if sin is not None else 0,
            *kp.stride()[:3],
            *vp.stride()[:3],
            heads,
            kv_heads,
            kp.shape[2],
            R=pairs,
            R_PAD=power_of_2(pairs),
            HEAD_TILE=HEAD_TILE,
            HAS_Q=q is not None,
            ROTATE=cos is not None,
            num_warps=warps_for(HEAD_TILE * power_of_2(pairs), k.element_size()),
        )
