"""The benchmarks that `vzoom eval` knows, each in a file of its own that says where its format was looked up."""

from ..item import Benchmark
from . import longvideobench, longvideoreason, lvbench, mlvu, videomme, videommlu, videommmu, world

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
        world.WORLD,
    )
}


def benchmark_named(name: str) -> Benchmark:
    """ValueError that lists the names where there is none of this one."""
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}: choose one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
