"""The benchmarks that `vzoom eval` knows, each in a file of its own that says where its format was looked up."""

from ..item import Benchmark
from . import longvideobench, longvideoreason, lvbench, mlvu, synthetic, videomme, videommlu, videommmu

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        mlvu.DEV,
        mlvu.TEST,
        mlvu.GENERATION,
        longvideobench.VALIDATION,
        videomme.ALL,
        videomme.LONG,
        lvbench.LVBENCH,
        videommlu.QUIZ,
        videommlu.CAPTION,
        videommmu.VIDEOMMMU,
        longvideoreason.LONGVIDEOREASON,
        synthetic.SYNTHETIC,
    )
}


def benchmark_named(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises:
        ValueError: there is none. The message lists the names.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}: choose one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
