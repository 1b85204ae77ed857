"""Checks of mrope_append."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ..layout import page_shape
from ..suite import (
    DTYPES,
    HEAD_DIMS,
    Check,
    Runner,
    at_slots,
    copied,
    new_pages,
    random,
    same_bits,
    shifted,
    within_tolerance,
)
from .reference import Arguments
from .reference import mrope_append as reference


def checks() -> Iterator[Check]:
    """List the checks."""
    for dtype in DTYPES:
        for dim in HEAD_DIMS:
            body = partial(_check, dim=dim, dtype=dtype, heads=6, kv_heads=2)
            yield Check("mrope_append", f"head_dim {dim}", dtype, body)
        many = partial(_check, dim=32, dtype=dtype, heads=28, kv_heads=9, block_size=3)
        yield Check("mrope_append", "tiles of heads", dtype, many)
        low = partial(_check, dim=64, dtype=dtype, heads=4, kv_heads=2, angle_dtype=dtype)
        yield Check("mrope_append", "angles in the model's dtype", dtype, low)
        odd = partial(_check, dim=20, dtype=dtype, heads=3, kv_heads=1)
        yield Check("mrope_append", "unaligned head_dim 20", dtype, odd)
        shifted = partial(_check, dim=64, dtype=dtype, heads=4, kv_heads=2, unaligned=True)
        yield Check("mrope_append", "unaligned storage", dtype, shifted)
        for dim in (64, 20):
            alone = partial(_check, dim=dim, dtype=dtype, heads=0, kv_heads=2)
            yield Check("mrope_append", f"k without q, head_dim {dim}", dtype, alone)
            as_is = partial(_check, dim=dim, dtype=dtype, heads=0, kv_heads=9, rotated=False)
            yield Check("mrope_append", f"k as it comes, head_dim {dim}", dtype, as_is)
        none = partial(_check, dim=64, dtype=dtype, heads=4, kv_heads=2, tokens=0)
        yield Check("mrope_append", "no tokens", dtype, none)


def example(device: torch.device) -> Arguments:
    """Make small arguments."""
    q, k, v = (torch.randn(5, heads, 16, device=device) for heads in (4, 2, 2))
    angles = torch.randn(5, 8, device=device)
    k_pages, v_pages = (torch.randn(page_shape(6, 2, 4, 16, device=device), device=device) for _ in range(2))
    slots = torch.tensor([3, 9, 4, -1, 20], device=device)
    return Arguments(q, k, v, angles.cos(), angles.sin(), k_pages, v_pages, slots)


def _check(
    runner: Runner,
    *,
    dim: int,
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    tokens: int = 5,
    block_size: int = 4,
    angle_dtype: torch.dtype = torch.float32,
    unaligned: bool = False,
    rotated: bool = True,
) -> None:
    """q, k, v are slices of one fused projection; one token is padding; no other slot may change by a bit.

    heads 0: q is None. Not rotated: no angles are given, and what is written is what was given, bit for bit.
    """
    fused = random(tokens, heads + 2 * kv_heads, dim, dtype=dtype, seed=dim)
    angles = random(tokens, dim // 2, dtype=torch.float32, seed=1) * 3
    cos, sin = angles.cos().to(angle_dtype), angles.sin().to(angle_dtype)
    pages = new_pages(4, kv_heads=kv_heads, block_size=block_size, dim=dim, dtype=dtype)
    slots = torch.randperm(4 * block_size, generator=torch.Generator().manual_seed(2))[:tokens]
    if tokens > 2:
        slots[2] = -1

    def by_reference(exact: torch.dtype) -> list[torch.Tensor]:
        q, k, v = fused.to(exact, copy=True).split([heads, kv_heads, kv_heads], dim=1)
        k_pages, v_pages = copied(pages.to(exact)), copied(pages.to(exact))
        angles = (cos.to(exact), sin.to(exact)) if rotated else (None, None)
        reference(Arguments(q if heads else None, k, v, angles[0], angles[1], k_pages, v_pages, slots))
        return [q, k_pages, v_pages]

    truth_q, truth_k, _ = by_reference(torch.float64)
    torch_q, torch_k, _ = by_reference(dtype)
    on_device = runner.put(shifted(fused) if unaligned else fused)
    q, k, v = on_device.split([heads, kv_heads, kv_heads], dim=1)
    k_pages, v_pages = runner.put_pages(pages), runner.put_pages(pages)
    turn = (runner.put(cos), runner.put(sin)) if rotated else (None, None)
    runner.run("mrope_append", q if heads else None, k, v, *turn, k_pages, v_pages, runner.put(slots))

    within_tolerance("q", q, torch_q, truth_q)
    same_bits("k and v of the projection", on_device[:, heads:], fused[:, heads:])
    got_k, got_v = runner.heads_first(k_pages), runner.heads_first(v_pages)
    written = slots[slots >= 0]
    within_tolerance("k", at_slots(got_k, written), at_slots(torch_k, written), at_slots(truth_k, written))
    if not rotated:
        same_bits("k", at_slots(got_k, written), fused[slots >= 0, heads : heads + kv_heads])
    same_bits("v", at_slots(got_v, written), fused[slots >= 0, heads + kv_heads :])
    others = torch.ones(4 * block_size, dtype=torch.bool)
    others[written] = False
    for name, got in (("k", got_k), ("v", got_v)):
        same_bits(
            f"other slots of {name}", at_slots(got, others.nonzero()[:, 0]), at_slots(pages, others.nonzero()[:, 0])
        )
