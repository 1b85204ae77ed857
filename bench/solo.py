"""The pytest-benchmark entries of bench_session.py and bench_rollout.py: vzoom alone, a small variant, the tiny model.

Figures to compare with peers come from the commands; this one shows a change of ours in a second.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import make_models
import torch
from peers import make_system
from workload import ControlIds, Shape, Workload


def bench(benchmark: Any, folder: Path, *, rollouts: int) -> None:
    """extra_info: cpu_ms (median of the whole), stages (CPU ms of each, last run), decode_tokens_per_cpu_second."""
    torch.set_num_threads(1)
    make_models.make("tiny", "float32", folder)
    system = make_system("vzoom", model=str(folder), dtype="float32")
    shape = Shape(glance_frames=16, clip_frames=8, zooms=2, rollouts=rollouts, zoom_tokens=20, answer_tokens=20)
    ids = ControlIds.of_checkpoint(folder)
    seeds = itertools.count()
    cpu_seconds: list[float] = []

    def prepared() -> tuple[tuple[Workload], dict[str, Any]]:
        work = Workload.make(shape, ids, next(seeds))
        system.prepare(work)
        system.phases.reset()
        return (work,), {}

    def run(work: Workload) -> None:
        began = time.process_time()
        sampled = system.run(work)
        cpu_seconds.append(time.process_time() - began)
        assert [len(tokens) for turn in sampled for tokens in turn] == [20] * 3 * rollouts

    benchmark.pedantic(run, setup=prepared, rounds=5, warmup_rounds=1)
    decode = system.phases.seconds["decode"]
    benchmark.extra_info |= {
        "cpu_ms": sorted(cpu_seconds)[len(cpu_seconds) // 2] * 1e3,
        "stages": {name: seconds * 1e3 for name, seconds in system.phases.seconds.items()},
        "decode_tokens_per_cpu_second": system.phases.decode_tokens / decode,
    }
