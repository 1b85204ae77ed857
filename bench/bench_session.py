"""One conversation with zooms: vzoom and what a user would pick instead, in the same interleaved run.

    python bench/bench_session.py --peers DIR          all entries against vLLM: about 8 minutes
    python bench/bench_session.py                      vzoom alone
    pytest bench/bench_session.py --benchmark-only     vzoom alone, a small variant

Glance of 64 frames of 168x168 (36 visual tokens each), 4 zooms of 16 frames, 60 greedy tokens before each zoom, 64 to
answer. CPU seconds of the process (all threads) beside wall seconds, medians. Tokens and their log-probabilities are
compared before anything is timed: in float32 all tokens must be equal; in bfloat16, where rounding decides near ties,
their counts must be, and the first difference is reported. The table is printed, the figures go to
bench/results/session.json entry by entry; --resume goes on behind an interruption.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import command

ENTRIES = ("single/small/float32", "single/small/bfloat16", "single/tiny/float32")


def test_session(benchmark: Any, tmp_path: Path) -> None:
    import solo

    solo.bench(benchmark, tmp_path, rollouts=1)


if __name__ == "__main__":
    command.main(str(__doc__), ENTRIES)
