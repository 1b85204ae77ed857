"""A group of rollouts that share a glance, as in RL: vzoom and what a user would pick instead, in one interleaved run.

    python bench/bench_rollout.py --peers DIR          both entries against vLLM: about 7 minutes
    python bench/bench_rollout.py                      vzoom alone
    pytest bench/bench_rollout.py --benchmark-only     vzoom alone, a small variant

8 rollouts, one glance of 64 frames, 2 zooms of 16 frames each, every rollout its own clips. All else as in
bench_session.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import command

ENTRIES = ("group/tiny/float32", "group/small/bfloat16")


def test_rollout(benchmark: Any, tmp_path: Path) -> None:
    import solo

    solo.bench(benchmark, tmp_path, rollouts=4)


if __name__ == "__main__":
    command.main(str(__doc__), ENTRIES)
