"""What is timed of merge_states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ..workload import HEAD_DIM, HEADS, Sizes, Workload
from .op import merge_states


def workloads(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Workload]:
    """Merge the two attentions of some tokens."""
    moved = 3 * sizes.merged * HEADS * (HEAD_DIM * dtype.itemsize + torch.float32.itemsize)
    prepare = partial(_prepare, device, dtype, sizes.merged)
    yield Workload("merge_states", dtype, f"{sizes.merged} tokens", prepare, moved)


def _prepare(device: torch.device, dtype: torch.dtype, tokens: int) -> Callable[[str], Tensor]:
    a, b, out = (torch.randn(tokens, HEADS, HEAD_DIM, dtype=dtype, device=device) for _ in range(3))
    lse_a, lse_b, lse = (torch.randn(tokens, HEADS, device=device) for _ in range(3))

    def run(impl: str) -> Tensor:
        return merge_states(a, lse_a, b, lse_b, out=out, lse=lse, impl=impl)

    return run
