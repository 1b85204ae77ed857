"""What is timed: an op at the shapes of a real model, and the bytes or FLOPs that it cannot do without.

The workloads of an op are in `kernels/<op>/bench.py`, found by folder: `workloads(device, dtype, sizes)`. They serve
`vzoom doctor --gpu`, `python -m vzoom.kernels bench OP` and `bench/bench_kernels.py`.
Sizes are those of Qwen2.5-VL-7B: 28 layers, 28 query and 4 key/value heads of 128, pages of 32 tokens.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .layout import new_pages

HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE = 28, 4, 128, 32
HIDDEN, INTERMEDIATE = 3584, 18944  # features of a layer and of its MLP


@dataclass(frozen=True)
class Sizes:
    """How large the workloads are. The defaults are for a GPU."""

    tokens: tuple[int, ...] = (1, 600)  # that one call rotates and appends
    decode: tuple[tuple[int, int], ...] = ((1, 1), (8, 1))  # sequences, and layers that are read one after the other
    context: int = 8192  # tokens of a sequence
    append: tuple[int, int] = (600, 8192)  # queries, and the keys of their sequence, themselves included
    layers: int = 28
    copies: int = 16  # blocks
    moved: int = 2048  # tokens
    first_slot: int = 0  # of a clip that is moved
    merged: int = 4096  # tokens
    frames: int = 64
    rows: tuple[int, ...] = (1, 8, 16)  # of a projection
    weight_bytes: int = 200 << 20  # far above any cache: each call takes another weight, as the layers of a model do


GPU = Sizes()
# On the CPU one call must read more than any cache holds, and clips start anywhere in a page.
CPU = Sizes(
    tokens=(4096,),
    decode=((1, 6), (8, 2)),
    append=(600, 8792),
    layers=4,
    copies=256,
    moved=8000,
    first_slot=7,
    frames=8,
)


@dataclass(frozen=True)
class Workload:
    """One timed call. Its floor is `bytes` to move, or `flops` if that is not 0."""

    op: str
    dtype: torch.dtype
    shape: str
    prepare: Callable[[], Callable[[str], Tensor]]  # makes the tensors; then: implementation -> what it has written
    bytes: int
    flops: int = 0
    reads: bool = False  # nearly all bytes are read, hardly any written
    target: float | None = None  # what floor / time is to reach with C++ on the CPU

    def __str__(self) -> str:
        return f"{self.op}, {self.shape}, {str(self.dtype).removeprefix('torch.')}"


def workloads(op: str, device: torch.device, dtype: torch.dtype, sizes: Sizes) -> list[Workload]:
    """List the workloads of an op. No tensor is made before `prepare` is called.

    Args:
        op: its name.
        device: where the tensors will be.
        dtype: of the tensors.
        sizes: how large they are.

    Returns:
        The workloads.
    """
    module = importlib.import_module(f"{__package__}.{op}.bench")
    return list(module.workloads(device, dtype, sizes))


def random_pages(num_layers: int, num_tokens: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Make keys and values [L, *pages of a layer] for so many tokens, in the memory that the engine's pool has."""
    blocks = -(-num_tokens // BLOCK_SIZE)
    k_pages, v_pages = (
        new_pages(num_layers, blocks, KV_HEADS, HEAD_DIM, dtype=dtype, device=device, block_size=BLOCK_SIZE).normal_()
        for _ in range(2)
    )
    return k_pages, v_pages
