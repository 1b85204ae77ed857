"""What is timed of mrope_append."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ..workload import BLOCK_SIZE, HEAD_DIM, HEADS, KV_HEADS, Sizes, Workload, random_pages
from .op import mrope_append


def workloads(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Workload]:
    """Rotate and append some tokens. On the CPU angles have the dtype of the model, on a GPU they are float32."""
    angle_dtype = dtype if device.type == "cpu" else torch.float32
    for tokens in sizes.tokens:
        moved = tokens * HEAD_DIM * (2 * (HEADS + 2 * KV_HEADS) * dtype.itemsize + angle_dtype.itemsize)
        prepare = partial(_prepare, device, dtype, angle_dtype, tokens)
        yield Workload("mrope_append", dtype, f"{tokens} tokens", prepare, moved, target=0.5)


def _prepare(
    device: torch.device, dtype: torch.dtype, angle_dtype: torch.dtype, tokens: int
) -> Callable[[str], Tensor]:
    fused = torch.randn(tokens, HEADS + 2 * KV_HEADS, HEAD_DIM, dtype=dtype, device=device)
    q, k, v = (x.contiguous() for x in fused.split([HEADS, KV_HEADS, KV_HEADS], dim=1))
    angles = torch.rand(tokens, HEAD_DIM // 2, device=device) * 6
    cos, sin = angles.cos().to(angle_dtype), angles.sin().to(angle_dtype)
    k_pages, v_pages = (pages[0] for pages in random_pages(1, tokens + BLOCK_SIZE, dtype, device))
    slots = torch.arange(tokens, device=device) + 11

    def run(impl: str) -> Tensor:
        mrope_append(q, k, v, cos, sin, k_pages, v_pages, slots, impl=impl)
        return k_pages  # q is rotated again by each call

    return run
