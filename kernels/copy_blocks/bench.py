"""What is timed of copy_blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ..workload import BLOCK_SIZE, HEAD_DIM, KV_HEADS, Sizes, Workload, random_pages
from .op import copy_blocks


def workloads(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Workload]:
    """Copy some blocks of all layers."""
    shape = f"{sizes.layers} layers x {sizes.copies} blocks"
    moved = sizes.copies * sizes.layers * 4 * BLOCK_SIZE * KV_HEADS * HEAD_DIM * dtype.itemsize
    prepare = partial(_prepare, device, dtype, sizes.layers, sizes.copies)
    yield Workload("copy_blocks", dtype, shape, prepare, moved, target=0.8)


def _prepare(device: torch.device, dtype: torch.dtype, layers: int, copies: int) -> Callable[[str], Tensor]:
    k_pages, v_pages = random_pages(layers, 2 * copies * BLOCK_SIZE, dtype, device)
    order = torch.randperm(2 * copies, device=device)
    sources, targets = order[:copies].contiguous(), order[copies:].contiguous()

    def run(impl: str) -> Tensor:
        copy_blocks(k_pages, v_pages, sources, targets, impl=impl)
        return k_pages

    return run
