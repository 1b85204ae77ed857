"""What is timed of silu_mul."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ..workload import INTERMEDIATE, Sizes, Workload
from .op import silu_mul


def workloads(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Workload]:
    """Gate the rows of an MLP."""
    for rows in sizes.tokens:
        shape, prepare = f"{rows} rows of {INTERMEDIATE}", partial(_prepare, device, dtype, rows)
        # The op writes over its gate: the call copies it back before, which moves two more.
        yield Workload("silu_mul", dtype, shape, prepare, 5 * rows * INTERMEDIATE * dtype.itemsize)


def _prepare(device: torch.device, dtype: torch.dtype, rows: int) -> Callable[[str], Tensor]:
    start, up = (torch.randn(rows, INTERMEDIATE, device=device).to(dtype) for _ in range(2))
    gate = start.clone()

    def run(impl: str) -> Tensor:
        gate.copy_(start)
        return silu_mul(gate, up, impl=impl)

    return run
