"""Checks of splice_move."""

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
    random,
    same_bits,
    shifted,
    within_tolerance,
)
from .reference import Arguments
from .reference import splice_move as reference


def checks() -> Iterator[Check]:
    """List the checks."""
    for dtype in DTYPES:
        for dim in HEAD_DIMS:
            yield Check("splice_move", f"head_dim {dim}", dtype, partial(_check, dim=dim, dtype=dtype))
        still = partial(_check, dim=128, dtype=dtype, rotated=False)
        yield Check("splice_move", "delta 0 is bitwise", dtype, still)
        odd = partial(_check, dim=20, dtype=dtype)
        yield Check("splice_move", "unaligned head_dim 20", dtype, odd)
        shifted = partial(_check, dim=64, dtype=dtype, unaligned_angles=True)
        yield Check("splice_move", "unaligned angles", dtype, shifted)
        many = partial(_check, dim=16, dtype=dtype, kv_heads=9, block_size=3)
        yield Check("splice_move", "tiles of heads", dtype, many)
        same = partial(_check, dim=64, dtype=dtype, in_place=True)
        yield Check("splice_move", "tokens onto themselves", dtype, same)
        yield Check("splice_move", "no tokens", dtype, partial(_check, dim=64, dtype=dtype, tokens=0))


def example(device: torch.device) -> Arguments:
    """Make small arguments."""
    k_pages, v_pages = (torch.randn(2, *page_shape(6, 2, 4, 16, device=device), device=device) for _ in range(2))
    slots = torch.tensor([1, 2], device=device), torch.tensor([9, 13], device=device)
    return Arguments(k_pages, v_pages, *slots, torch.randn(8, device=device), torch.randn(8, device=device))


def _check(
    runner: Runner,
    *,
    dim: int,
    dtype: torch.dtype,
    rotated: bool = True,
    in_place: bool = False,
    tokens: int = 6,
    kv_heads: int = 2,
    block_size: int = 4,
    unaligned_angles: bool = False,
) -> None:
    """K within the tolerance if it is rotated; V, unmoved slots and unrotated K bitwise."""
    layers, blocks = 3, 6
    start = random(2, layers, blocks, block_size, kv_heads, dim, dtype=dtype, seed=4)
    k, v = (x.transpose(-3, -2) for x in start)
    order = torch.randperm(blocks * block_size, generator=torch.Generator().manual_seed(5))
    sources = order[:tokens].clone()
    targets = sources.clone() if in_place else order[tokens : 2 * tokens].clone()
    if tokens > 1:
        targets[1] = -1
    angles = random(dim // 2, dtype=torch.float64, seed=6) * 5
    cos, sin = (angles.cos().float(), angles.sin().float()) if rotated else (None, None)
    if unaligned_angles and cos is not None and sin is not None:
        cos, sin = shifted(cos), shifted(sin)

    def by_reference(exact: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        pages = copied(k.to(exact)), copied(v.to(exact))
        reference(Arguments(*pages, sources, targets, cos, sin))
        return pages

    truth_k, _ = by_reference(torch.float64)
    torch_k, torch_v = by_reference(dtype)
    k_pages, v_pages = runner.put_pages(k), runner.put_pages(v)
    turn = [runner.put(x) if x is not None else None for x in (cos, sin)]
    runner.run("splice_move", k_pages, v_pages, runner.put(sources), runner.put(targets), *turn)
    got_k = runner.heads_first(k_pages)
    same_bits("v", runner.heads_first(v_pages), torch_v)
    if not rotated:
        same_bits("k", got_k, torch_k)
        return
    written = targets[targets >= 0]
    others = torch.ones(blocks * block_size, dtype=torch.bool)
    others[written] = False
    kept = others.nonzero()[:, 0]
    same_bits("other slots of k", at_slots(got_k, kept), at_slots(k, kept))
    within_tolerance("k", at_slots(got_k, written), at_slots(torch_k, written), at_slots(truth_k, written))
