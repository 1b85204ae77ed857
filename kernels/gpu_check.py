"""`vzoom doctor --gpu`: on a machine with a GPU, build what is missing, run the suite of checks on it, capture every op
in a CUDA graph, time every op against the bytes or FLOPs it cannot do without, print a table and save it.

    python -m vzoom.kernels.gpu_check [--save gpu_check.json] [--no-build]

Floors are measured in the same run: bandwidth by copying a large tensor, FLOPs by a large torch.mm.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from vzoom.config import missing_extra

from . import extension
from .registry import GPU_OPS, missing
from .suite import OpRunner, all_checks
from .workload import GPU, Sizes, Workload, workloads

SOURCE_TREE = Path(__file__).resolve().parents[1]
IMPLS = ("cuda", "triton")
DTYPE = torch.bfloat16  # of what is timed
_FLUSH_BYTES = 256 << 20  # larger than any L2 cache: each timed call reads from memory


class NoGpu(RuntimeError):
    """torch sees no CUDA device."""


@dataclass(frozen=True)
class Timing:
    """One op at one shape. ratio: floor / median, 1 is perfect."""

    op: str
    impl: str
    shape: str
    median_us: float
    p90_us: float
    floor_us: float
    ratio: float
    captured: bool  # in a CUDA graph, and replayed


@dataclass(frozen=True)
class GpuReport:
    """What came out of the checks and the timing."""

    device: str
    torch: str
    bandwidth_gb_s: float
    mm_tflop_s: float
    skipped: dict[str, str]  # impl and op -> why it did not run
    passed: int
    failed: dict[str, str]  # check -> what was wrong
    timings: list[Timing]

    def text(self) -> str:
        """The table for people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield from (
            f"{self.device}, torch {self.torch}",
            f"copy {self.bandwidth_gb_s:.0f} GB/s, mm {self.mm_tflop_s:.0f} TFLOP/s (both measured now)",
            f"checks: {self.passed} passed, {len(self.failed)} failed",
            *(f"  FAILED {name}: {why}" for name, why in self.failed.items()),
            *(f"  not run: {name}: {why}" for name, why in self.skipped.items()),
            f"{'op':18} {'impl':7} {'shape':46} {'median':>9} {'p90':>9} {'floor':>9} ratio graph",
        )
        for t in self.timings:
            yield (
                f"{t.op:18} {t.impl:7} {t.shape:46} {t.median_us:6.1f} us {t.p90_us:6.1f} us {t.floor_us:6.1f} us "
                f"{t.ratio:5.2f} {'yes' if t.captured else 'NO'}"
            )


def run_gpu_check(*, sizes: Sizes = GPU) -> GpuReport:
    """Check and time everything; build nothing.

    Args:
        sizes: how large the timed workloads are.

    Returns:
        What came out.

    Raises:
        NoGpu: torch sees no GPU.
    """
    if not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise NoGpu(
            f"no GPU was found: torch {torch.__version__}, built {built}, sees no CUDA device. "
            "Run this where nvidia-smi shows one, with a torch that is built for CUDA"
        )
    device = torch.device("cuda", torch.cuda.current_device())
    skipped = {
        f"{impl} {op}": reason for impl in IMPLS for op in GPU_OPS if (reason := missing(op, impl, "cuda")) is not None
    }
    passed, failed = run_checks(device, skipped)
    bandwidth, rate = measure_floors(device)
    timings = [
        time_one(work, impl, bandwidth, rate)
        for impl in IMPLS
        for op in GPU_OPS
        if f"{impl} {op}" not in skipped
        for work in workloads(op, device, DTYPE, sizes)
    ]
    return GpuReport(
        torch.cuda.get_device_name(device),
        torch.__version__,
        bandwidth / 1e9,
        rate / 1e12,
        skipped,
        passed,
        failed,
        timings,
    )


def run_checks(device: torch.device, skipped: dict[str, str]) -> tuple[int, dict[str, str]]:
    """Run the checks of every op and implementation.

    Args:
        device: a GPU.
        skipped: "impl op" -> why it cannot run.

    Returns:
        How many passed, and the others with what was wrong: a number, or what torch or the driver said.
    """
    passed, failed = 0, {}
    for impl in IMPLS:
        for check in all_checks(GPU_OPS):
            if f"{impl} {check.op}" in skipped:
                continue
            try:
                check.body(OpRunner(impl, device))
                passed += 1
            except (AssertionError, RuntimeError) as wrong:
                failed[f"{impl} {check}"] = str(wrong)
    return passed, failed


def measure_floors(device: torch.device) -> tuple[float, float]:
    """Measure what the GPU can do: bytes per second of a large copy, FLOPs per second of a large bf16 product."""
    a = torch.empty(1 << 29, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    copied = 2 * a.numel() / statistics.median(seconds_of(lambda: b.copy_(a), device))
    m = torch.randn(8192, 8192, dtype=DTYPE, device=device)
    out = torch.empty_like(m)
    return copied, 2 * 8192**3 / statistics.median(seconds_of(lambda: torch.mm(m, m, out=out), device))


def seconds_of(call: Callable[[], object], device: torch.device, *, repeats: int = 30) -> list[float]:
    """Time calls on a GPU, the L2 cache flushed before each.

    Args:
        call: what is timed.
        device: a GPU.
        repeats: how often.

    Returns:
        Seconds of each.
    """
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=device)
    for _ in range(3):
        call()
    times = []
    for _ in range(repeats):
        flush.zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return times


def time_one(work: Workload, impl: str, bandwidth: float, rate: float) -> Timing:
    """Time one workload, through a CUDA graph if the op can be captured, as decode steps run; else as plain calls.

    Args:
        work: what is timed.
        impl: by which implementation.
        bandwidth: bytes per second of the GPU.
        rate: FLOPs per second of the GPU.

    Returns:
        The row of the table.
    """
    device = torch.device("cuda", torch.cuda.current_device())
    run = work.prepare()

    def call() -> object:
        return run(impl)

    call()  # compiles, fills caches
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    captured = True
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError as refused:  # the table says NO, and here is why
        print(f"{impl} {work.op} cannot be captured: {refused}", file=sys.stderr)
        captured = False
    times = seconds_of(graph.replay if captured else call, device)
    floor = max(work.bytes / bandwidth, work.flops / rate)
    median = statistics.median(times)
    p90 = statistics.quantiles(times, n=10)[-1]
    return Timing(work.op, impl, work.shape, median * 1e6, p90 * 1e6, floor * 1e6, floor / median, captured)


def build_if_needed() -> bool:
    """Install the extension with its CUDA part from the source tree. False if it is there or cannot be built."""
    native = extension.native()
    if native is not None and native.cuda_ops:
        return False
    if shutil.which("nvcc") is None or not (SOURCE_TREE / "CMakeLists.txt").exists():
        print("the CUDA C++ is not built: that needs nvcc on the path and the source tree", file=sys.stderr)
        return False
    print(f"building the CUDA C++ in {SOURCE_TREE}; some minutes", flush=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", str(SOURCE_TREE)], check=True)
    return True


def main(arguments: list[str] | None = None) -> int:
    """0: all passed; 1: a check failed or an op cannot be captured; 2: no GPU."""
    parser = argparse.ArgumentParser(prog="vzoom doctor --gpu", description="Check and time the kernels on this GPU.")
    parser.add_argument("--save", type=Path, default=Path("gpu_check.json"), help="where the table goes, as JSON")
    parser.add_argument("--no-build", action="store_true", help="take the extension as it is")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        try:
            run_gpu_check()
        except NoGpu as none:
            print(none, file=sys.stderr)
            return 2
    if importlib.util.find_spec("triton") is None:
        print(missing_extra("triton", "gpu"), file=sys.stderr)
    if not options.no_build and build_if_needed():
        # The old extension is loaded in this process: the new one is seen by the next.
        command = [sys.executable, "-m", "vzoom.kernels.gpu_check", "--no-build", "--save", str(options.save)]
        return subprocess.run(command, check=False).returncode
    report = run_gpu_check()
    print(report.text())
    options.save.write_text(json.dumps(asdict(report), indent=1) + "\n")
    print(f"saved to {options.save}")
    return int(bool(report.failed) or not all(t.captured for t in report.timings))


if __name__ == "__main__":
    sys.exit(main())
