"""Projections of a decode step against the speed at which this machine reads, and torch's own, one thread.

    pytest bench/bench_linear.py --benchmark-only

extra_info of an entry as in bench_kernels.py: ratio_to_floor is the time that reading the weights once would take at
the speed of the fastest torch reduction over 256 MiB in the same run, over the time taken; ratio_to_reference is the
time of torch's own product over ours. Rows are sessions that decode together. Every call takes another weight, as the
layers of a model do, so that none is in a cache. Many rows are compared with torch.mm of 1024 x 1024, in FLOPs.
"""

from __future__ import annotations

import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from kernel_floors import LARGE_BYTES, in_turns, multiply, read_large

from vzoom.kernels.linear import linear
from vzoom.kernels.linear.reference import linear as by_torch

DTYPES = [torch.bfloat16, torch.float32]
WEIGHT_BYTES = 200 << 20  # far above any cache


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def weights(inputs: int, outputs: int, dtype: torch.dtype, *, num_bytes: int) -> list[torch.Tensor]:
    count = max(1, num_bytes // (inputs * outputs * dtype.itemsize))
    return [(torch.randn(outputs, inputs) * inputs**-0.5).to(dtype) for _ in range(count)]


def record(
    benchmark: Any, dtype: torch.dtype, shape: str, run: dict[str, Any], *, floor: Any, share: float, **more: float
) -> None:
    """floor: a call, `share` of whose time is the least that run["ours"] could take."""
    taken = in_turns(run | {"floor": floor}, rounds=7)
    info = {
        "op": "linear",
        "impl": "cpu",
        "dtype": str(dtype).removeprefix("torch."),
        "shape": shape,
        "ratio_to_floor": round(taken["floor"] * share / taken["ours"], 3),
        "ratio_to_reference": round(taken["torch"] / taken["ours"], 2),
        "cpu_ms": round(taken["ours"] * 1e3, 3),
        **more,
    }
    benchmark.extra_info.update(info)
    print(f"\n{info}")
    benchmark.pedantic(run["ours"], rounds=5)


@pytest.mark.parametrize(("inputs", "outputs"), [(512, 5632), (2816, 512), (512, 32768)])
@pytest.mark.parametrize("rows", [1, 8, 16])
@pytest.mark.parametrize("dtype", DTYPES, ids=["bf16", "fp32"])
def test_few_rows(benchmark: Any, dtype: torch.dtype, rows: int, inputs: int, outputs: int) -> None:
    every = weights(inputs, outputs, dtype, num_bytes=WEIGHT_BYTES)
    x = torch.randn(rows, inputs).to(dtype)
    bound = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(linear(x, every[0]), x @ every[0].T, atol=bound, rtol=bound)

    def ours() -> None:
        for weight in every:
            linear(x, weight, impl="cpu")

    def torchs() -> None:
        for weight in every:
            by_torch(x, weight, None, None, None, None)

    share = len(every) * every[0].nbytes / LARGE_BYTES
    shape = f"{rows} rows, {len(every)} x {inputs} to {outputs}"
    record(benchmark, dtype, shape, {"ours": ours, "torch": torchs}, floor=read_large, share=share)


@pytest.mark.parametrize("rows", [64, 850])
@pytest.mark.parametrize("dtype", DTYPES, ids=["bf16", "fp32"])
def test_gated_mlp_of_many_rows(benchmark: Any, dtype: torch.dtype, rows: int) -> None:
    gate, up = (cycle(weights(512, 2816, dtype, num_bytes=32 << 20)) for _ in range(2))
    x = torch.randn(rows, 512).to(dtype)

    def ours() -> None:
        linear(x, next(up), gate_OI=next(gate))

    def torchs() -> None:
        by_torch(x, next(up), None, next(gate), None, None)

    mm, flops = multiply(dtype)
    share = 4 * rows * 512 * 2816 / flops
    shape = f"{rows} rows, gated, 512 to 2816"
    record(benchmark, dtype, shape, {"ours": ours, "torch": torchs}, floor=mm, share=share)
