"""Checks of copy_blocks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ..layout import page_shape
from ..suite import DTYPES, Check, Runner, copied, random, same_bits, shifted
from .reference import Arguments
from .reference import copy_blocks as reference


def checks() -> Iterator[Check]:
    """List the checks."""
    for dtype in DTYPES:
        for dim, block_size in ((128, 32), (80, 5), (8, 1), (20, 3)):
            body = partial(_check, dim=dim, block_size=block_size, dtype=dtype)
            yield Check("copy_blocks", f"blocks of {block_size} x {dim}", dtype, body)
        shifted = partial(_check, dim=64, dtype=dtype, unaligned=True)
        yield Check("copy_blocks", "unaligned storage", dtype, shifted)
        yield Check("copy_blocks", "no copies", dtype, partial(_check, dim=64, dtype=dtype, copies=0))


def example(device: torch.device) -> Arguments:
    """Make small arguments."""
    k_pages, v_pages = (torch.randn(2, *page_shape(6, 2, 4, 16, device=device), device=device) for _ in range(2))
    return Arguments(k_pages, v_pages, torch.tensor([1, 2], device=device), torch.tensor([5, 0], device=device))


def _check(
    runner: Runner,
    *,
    dim: int,
    dtype: torch.dtype,
    block_size: int = 16,
    kv_heads: int = 3,
    copies: int = 3,
    unaligned: bool = False,
) -> None:
    """Bitwise, NaNs too; one pair is padding."""
    layers, blocks = 2, 7
    start = random(2, layers, blocks, block_size, kv_heads, dim, dtype=dtype, seed=3)
    start[:, :, 1, 0] = torch.nan
    start = shifted(start) if unaligned else start
    k, v = (x.transpose(-3, -2) for x in start)
    sources, targets = torch.tensor([[1, 4, 4], [6, 0, -1]])[:, :copies]
    wanted_k, wanted_v = copied(k), copied(v)
    reference(Arguments(wanted_k, wanted_v, sources, targets))
    k_pages, v_pages = runner.put_pages(k), runner.put_pages(v)
    runner.run("copy_blocks", k_pages, v_pages, runner.put(sources), runner.put(targets))
    same_bits("k", runner.heads_first(k_pages), wanted_k)
    same_bits("v", runner.heads_first(v_pages), wanted_v)
    assert copies == 0 or not wanted_k.equal(k), "the check copied nothing"
