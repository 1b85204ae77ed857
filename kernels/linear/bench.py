"""What is timed of linear."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ..workload import Sizes, Workload
from .op import linear
from .reference import project


def workloads(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Workload]:
    """Projections of a decode step, which read weights; and a gated MLP of many rows, which multiplies."""
    for inputs, outputs in ((512, 5632), (2816, 512), (512, 32768)):
        for rows in sizes.rows:
            count = max(1, sizes.weight_bytes // (inputs * outputs * dtype.itemsize))
            shape = f"{rows} rows, {count} x {inputs} to {outputs}"
            prepare = partial(_few_rows, device, dtype, rows, inputs, outputs, count)
            read = count * inputs * outputs * dtype.itemsize
            yield Workload("linear", dtype, shape, prepare, read, reads=True)
    for rows in (64, 850):
        shape, prepare = f"{rows} rows, gated, 512 to 2816", partial(_gated, device, dtype, rows)
        yield Workload("linear", dtype, shape, prepare, 2 * 512 * 2816 * dtype.itemsize, 4 * rows * 512 * 2816)


def _weights(count: int, inputs: int, outputs: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    return [(torch.randn(outputs, inputs, device=device) * inputs**-0.5).to(dtype) for _ in range(count)]


def _few_rows(
    device: torch.device, dtype: torch.dtype, rows: int, inputs: int, outputs: int, count: int
) -> Callable[[str], Tensor]:
    x, every = torch.randn(rows, inputs, device=device).to(dtype), _weights(count, inputs, outputs, dtype, device)

    def run(impl: str) -> Tensor:
        for weight in every:
            out = project(x, weight, *[None] * 4) if impl == "reference" else linear(x, weight, impl=impl)
        return out

    return run


def _gated(device: torch.device, dtype: torch.dtype, rows: int) -> Callable[[str], Tensor]:
    x = torch.randn(rows, 512, device=device).to(dtype)
    up, gate = _weights(2, 512, 2816, dtype, device)

    def run(impl: str) -> Tensor:
        if impl == "reference":
            return project(x, up, None, gate, None, None)
        return linear(x, up, gate_OI=gate, impl=impl)

    return run
