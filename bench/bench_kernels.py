"""The C++ kernels against their floors, the torch reference and torch's own operations, one thread.

    pytest bench/bench_kernels.py --benchmark-only

What is timed is in `kernels/<op>/bench.py`; `python -m vzoom.kernels bench OP` times one op without pytest.
extra_info of an entry: op, impl, dtype, shape; ratio_to_floor (the time that moving the bytes or doing the FLOPs would
take at the speed this machine showed in the same run, over the time taken), target (the ratio_to_floor to reach, if
there is one), ratio_to_reference (the reference's time over ours), cpu_ms, and what else an entry compares with.
Sizes are those of Qwen2.5-VL-7B (`vzoom.kernels.workload`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from vzoom.kernels.bench_op import check_numbers
from vzoom.kernels.floors import LARGE_BYTES, copy_large, floor_of, in_turns
from vzoom.kernels.layout import new_pages
from vzoom.kernels.mrope_append import mrope_append
from vzoom.kernels.registry import OPS
from vzoom.kernels.workload import CPU, HEAD_DIM, HEADS, KV_HEADS, Workload, workloads

WORK = [
    work
    for op in OPS
    if op not in ("linear", "frames_to_patches")  # in bench_linear.py and bench_patches.py
    for dtype in (torch.bfloat16, torch.float32)
    for work in workloads(op, torch.device("cpu"), dtype, CPU)
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def record(benchmark: Any, work: Workload, *, rounds: int = 7, **beside: Callable[[], object]) -> None:
    """beside: what the op is compared with besides its floor and the reference."""
    run = work.prepare()
    check_numbers(work, run("reference").clone(), run("cpu"))
    floor, share = floor_of(work)
    calls = {"ours": partial(run, "cpu"), "reference": partial(run, "reference"), "floor": floor}
    taken = in_turns(calls | beside, rounds=rounds)
    info = {
        "op": work.op,
        "impl": "cpu",
        "dtype": str(work.dtype).removeprefix("torch."),
        "shape": work.shape,
        "ratio_to_floor": round(taken["floor"] * share / taken["ours"], 3),
        "ratio_to_reference": round(taken["reference"] / taken["ours"], 2),
        "cpu_ms": round(taken["ours"] * 1e3, 3),
    }
    info |= {f"ratio_to_{name}": round(taken[name] / taken["ours"], 3) for name in beside}
    info |= {"target": work.target} if work.target is not None else {}
    benchmark.extra_info.update(info)
    print(f"\n{info}")
    benchmark.pedantic(run, args=("cpu",), rounds=rounds)


@pytest.mark.parametrize("work", WORK, ids=str)
def test_kernel(benchmark: Any, work: Workload) -> None:
    if work.op == "paged_attention" and work.flops:
        record(benchmark, work, rounds=3, sdpa=dense_attention(work.dtype, *CPU.append))
    else:
        record(benchmark, work)


def dense_attention(dtype: torch.dtype, new: int, context: int) -> Callable[[], object]:
    """torch's own attention with a mask, on keys and values that are not in pages."""
    shapes = ((HEADS, new), (KV_HEADS, context), (KV_HEADS, context))
    q, k, v = (torch.randn(1, heads, tokens, HEAD_DIM).to(dtype) for heads, tokens in shapes)
    mask = torch.arange(context) <= torch.arange(context - new, context)[:, None]
    return partial(scaled_dot_product_attention, q, k, v, attn_mask=mask, scale=HEAD_DIM**-0.5, enable_gqa=True)


def test_mrope_append_one_token(benchmark: Any) -> None:
    """What a call from Python costs: all of it, less what moving a token's bytes takes."""
    dtype, calls = torch.bfloat16, 1000
    q, k, v = (torch.randn(1, heads, HEAD_DIM).to(dtype) for heads in (HEADS, KV_HEADS, KV_HEADS))
    cos, sin = torch.ones(1, HEAD_DIM // 2, dtype=dtype), torch.zeros(1, HEAD_DIM // 2, dtype=dtype)
    k_pages, v_pages = new_pages(2, 4, KV_HEADS, HEAD_DIM, dtype=dtype, device=torch.device("cpu"))
    slots = torch.tensor([5])

    def run(impl: str) -> None:
        for _ in range(calls):
            mrope_append(q, k, v, cos, sin, k_pages, v_pages, slots, impl=impl)

    run("cpu")
    assert k_pages[0, :, 5].equal(k[0])  # by an angle of 0
    taken = in_turns({"ours": lambda: run("cpu"), "reference": lambda: run("reference"), "copy": copy_large}, rounds=7)
    moved = calls * (2 * HEADS + 4 * KV_HEADS + 1) * HEAD_DIM * dtype.itemsize
    floor = taken["copy"] * moved / (2 * LARGE_BYTES)
    info = {
        "op": "mrope_append",
        "impl": "cpu",
        "dtype": "bfloat16",
        "shape": f"1 token x {calls}",
        "ratio_to_floor": round(floor / taken["ours"], 3),
        "ratio_to_reference": round(taken["reference"] / taken["ours"], 2),
        "cpu_ms": round(taken["ours"] * 1e3, 3),
        "overhead_us": round((taken["ours"] - floor) / calls * 1e6, 2),
        "max_overhead_us": 10,
    }
    benchmark.extra_info.update(info)
    print(f"\n{info}")
    benchmark.pedantic(run, args=("cpu",), rounds=7)
