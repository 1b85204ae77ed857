"""What is timed of rms_norm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ..workload import HIDDEN, Sizes, Workload
from .op import rms_norm


def workloads(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Workload]:
    """Norm the rows of a layer."""
    for rows in sizes.tokens:
        shape, prepare = f"{rows} rows of {HIDDEN}", partial(_prepare, device, dtype, rows)
        yield Workload("rms_norm", dtype, shape, prepare, 2 * rows * HIDDEN * dtype.itemsize)


def _prepare(device: torch.device, dtype: torch.dtype, rows: int) -> Callable[[str], Tensor]:
    x, weight = torch.randn(rows, HIDDEN, device=device).to(dtype), torch.rand(HIDDEN, device=device).to(dtype)

    def run(impl: str) -> Tensor:
        return rms_norm(x, weight, 1e-6, impl=impl)

    return run
