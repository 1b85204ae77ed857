"""mrope_append in Triton: one program a token and tile of heads; q tiles first, then tiles of k and v."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..gpu import check_gpu_dtype, on_device_of, power_of_2, warps_for
from ..layout import heads_first

HEAD_TILE = 8  # heads a program; 8 heads of 128 bf16 are 2 KB


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
    groups,
    block_size,
    R: tl.constexpr,
    R_PAD: tl.constexpr,
    HEAD_TILE: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    q_tiles = tl.cdiv(heads, HEAD_TILE)
    pair = tl.arange(0, R_PAD)
    there = pair < R
    c = tl.load(cos + token * cos_token + pair, mask=there, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin + token * sin_token + pair, mask=there, other=0.0).to(tl.float32)[None, :]

    if tile < q_tiles:
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
        mask = (head < groups)[:, None] & there[None, :] & (slot >= 0)
        head64 = head.to(tl.int64)[:, None]
        block, offset = slot // block_size, slot % block_size
        at = k + token * k_token + head64 * k_head + pair[None, :]
        first = tl.load(at, mask=mask, other=0.0).to(tl.float32)
        second = tl.load(at + R, mask=mask, other=0.0).to(tl.float32)
        first, second = rotate_halves(first, second, c, s)
        to = k_pages + block * kp_block + offset * kp_offset + head64 * kp_head + pair[None, :]
        tl.store(to, first.to(k_pages.dtype.element_ty), mask=mask)
        tl.store(to + R, second.to(k_pages.dtype.element_ty), mask=mask)
        at = v + token * v_token + head64 * v_head + pair[None, :]
        to = v_pages + block * vp_block + offset * vp_offset + head64 * vp_head + pair[None, :]
        tl.store(to, tl.load(at, mask=mask), mask=mask)
        tl.store(to + R, tl.load(at + R, mask=mask), mask=mask)


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
    check_gpu_dtype("q", q_THD)
    tokens, heads, _ = q_THD.shape
    groups, pairs = k_TGD.shape[1], cos_TR.shape[1]
    if tokens == 0:
        return
    kp, vp = heads_first(k_pages), heads_first(v_pages)
    grid = (tokens, triton.cdiv(heads, HEAD_TILE) + triton.cdiv(groups, HEAD_TILE))
    with on_device_of(q_THD):
        mrope_append_kernel[grid](
            q_THD,
            k_TGD,
            v_TGD,
            cos_TR,
            sin_TR,
            k_pages,
            v_pages,
            slots_T.contiguous(),
            *q_THD.stride()[:2],
            *k_TGD.stride()[:2],
            *v_TGD.stride()[:2],
            cos_TR.stride(0),
            sin_TR.stride(0),
            *kp.stride()[:3],
            *vp.stride()[:3],
            heads,
            groups,
            kp.shape[2],
            R=pairs,
            R_PAD=power_of_2(pairs),
            HEAD_TILE=HEAD_TILE,
            num_warps=warps_for(HEAD_TILE * power_of_2(pairs), q_THD.element_size()),
        )
