"""What is timed of splice_move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ..workload import BLOCK_SIZE, HEAD_DIM, KV_HEADS, Sizes, Workload, random_pages
from .op import splice_move


def workloads(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Workload]:
    """Move a clip in all layers, without and with a rotation."""
    moved = sizes.moved * sizes.layers * 4 * KV_HEADS * HEAD_DIM * dtype.itemsize
    for rotated in (False, True):
        shape = f"{sizes.layers} layers x {sizes.moved} tokens, {'rotated' if rotated else 'delta 0'}"
        prepare = partial(_prepare, device, dtype, sizes, rotated)
        yield Workload("splice_move", dtype, shape, prepare, moved, target=0.5 if rotated else 0.8)


def _prepare(device: torch.device, dtype: torch.dtype, sizes: Sizes, rotated: bool) -> Callable[[str], Tensor]:
    half = -(-(sizes.first_slot + sizes.moved) // BLOCK_SIZE) * BLOCK_SIZE
    k_pages, v_pages = random_pages(sizes.layers, 2 * half, dtype, device)
    sources = torch.arange(sizes.moved, device=device) + sizes.first_slot
    targets = sources - sizes.first_slot // 2 + half
    angles = torch.rand(HEAD_DIM // 2, dtype=torch.float64, device=device) * 6
    turn = (angles.cos().float(), angles.sin().float()) if rotated else (None, None)

    def run(impl: str) -> Tensor:
        splice_move(k_pages, v_pages, sources, targets, *turn, impl=impl)
        return k_pages

    return run
