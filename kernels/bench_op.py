"""Times one op, after a check of its numbers: `python -m vzoom.kernels bench OP`.

On the CPU one thread, in CPU seconds, in turns with the torch reference and with the floor (`floors`). On a GPU through
a CUDA graph, as `vzoom doctor --gpu` does it (`gpu_check`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from .floors import floor_of, in_turns
from .gpu_check import measure_floors, time_one
from .registry import resolve
from .workload import CPU, GPU, Sizes, Workload, workloads

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Timed:
    """One workload. to_floor: floor / time, 1 is perfect. to_reference: the reference's time / ours; None on a GPU."""

    work: Workload
    impl: str
    median_us: float
    to_floor: float
    to_reference: float | None

    def line(self) -> str:
        """The row for people."""
        reference = "" if self.to_reference is None else f"{self.to_reference:7.2f} x reference"
        return f"{self.work!s:70} {self.impl:9} {self.median_us:12.1f} us {self.to_floor:6.2f} of floor{reference}"


def bench_op(
    op: str,
    *,
    impl: str = "auto",
    device: torch.device,
    dtypes: Sequence[str] = ("bfloat16", "float32"),
    sizes: Sizes | None = None,
    rounds: int = 7,
) -> Iterator[Timed]:
    """Time the workloads of an op.

    Args:
        op: its name.
        impl: what is timed.
        device: where.
        dtypes: names of DTYPES.
        sizes: how large the workloads are; None takes those of the device.
        rounds: timed calls on the CPU.

    Yields:
        A row for each workload, when it is ready.

    Raises:
        AssertionError: the numbers are wrong: what is wrong is not timed.
        RuntimeError: the implementation is not there.
    """
    chosen = resolve(op, impl, device.type)
    if device.type == "cuda":
        bandwidth, rate = measure_floors(device)
    else:
        torch.set_num_threads(1)
    sizes = sizes or (GPU if device.type == "cuda" else CPU)
    for dtype in dtypes:
        for work in workloads(op, device, DTYPES[dtype], sizes):
            run = work.prepare()
            check_numbers(work, run("reference").clone(), run(impl))
            if device.type == "cuda":
                timing = time_one(work, chosen, bandwidth, rate)
                yield Timed(work, chosen, timing.median_us, timing.ratio, None)
                continue
            floor, share = floor_of(work)
            calls: dict[str, Callable[[], object]] = {
                "ours": partial(run, impl),
                "reference": partial(run, "reference"),
                "floor": floor,
            }
            taken = in_turns(calls, rounds=rounds)
            ours = taken["ours"]
            yield Timed(work, chosen, ours * 1e6, taken["floor"] * share / ours, taken["reference"] / ours)


def check_numbers(work: Workload, wanted: torch.Tensor, got: torch.Tensor) -> None:
    """Compare an implementation with the reference. The real tolerances are in the checks (`vzoom.kernels.suite`).

    Raises:
        AssertionError: they differ.
    """
    bound = 1e-5 if wanted.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got, wanted, atol=bound, rtol=bound, msg=lambda text: f"{work}: {text}")
