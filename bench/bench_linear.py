"""Projections of a decode step against the speed at which this machine reads, and torch's own, one thread.

    pytest bench/bench_linear.py --benchmark-only

extra_info of an entry as in bench_kernels.py: ratio_to_floor is the time that reading the weights once would take at
the speed of the fastest torch reduction over 256 MiB in the same run, over the time taken; ratio_to_reference is the
time of torch's own product over ours. Rows are sessions that decode together. Every call takes another weight, as the
layers of a model do, so that none is in a cache. Many rows are compared with torch.mm of 1024 x 1024, in FLOPs, and run
by oneDNN (impl "auto"), few by the C++.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from vzoom.kernels.bench_op import check_numbers
from vzoom.kernels.floors import floor_of, in_turns
from vzoom.kernels.workload import CPU, Workload, workloads

WORK = [
    work for dtype in (torch.bfloat16, torch.float32) for work in workloads("linear", torch.device("cpu"), dtype, CPU)
]


@pytest.mark.parametrize("work", WORK, ids=str)
def test_linear(benchmark: Any, work: Workload) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    run = work.prepare()
    check_numbers(work, run("reference"), run("auto"))
    floor, share = floor_of(work)
    taken = in_turns({"ours": partial(run, "auto"), "torch": partial(run, "reference"), "floor": floor}, rounds=7)
    info = {
        "op": "linear",
        "impl": "auto",
        "dtype": str(work.dtype).removeprefix("torch."),
        "shape": work.shape,
        "ratio_to_floor": round(taken["floor"] * share / taken["ours"], 3),
        "ratio_to_reference": round(taken["torch"] / taken["ours"], 2),
        "cpu_ms": round(taken["ours"] * 1e3, 3),
    }
    benchmark.extra_info.update(info)
    print(f"\n{info}")
    benchmark.pedantic(run, args=("auto",), rounds=5)
