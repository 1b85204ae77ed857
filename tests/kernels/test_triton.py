"""Triton without a GPU: the checks of all ops in the interpreter, in a process of its own.

An interpreted kernel cannot be compiled, and TRITON_INTERPRET is read when triton is imported.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vzoom.kernels.gpu import choose_splits
from vzoom.kernels.registry import GPU_OPS
from vzoom.kernels.suite import all_checks

HERE = Path(__file__).parent


def test_the_suite_passes_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="triton is not installed: pip install '.[gpu]'")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "triton_suite.py")]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        command, check=False, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed.group(1)) == len(all_checks(GPU_OPS)) + 1  # and the split contexts


@pytest.mark.parametrize(
    ("programs", "longest", "splits"),
    [(4, 8192, 32), (64, 8192, 4), (1000, 8192, 1), (4, 256, 1), (4, 1024, 4)],
)
def test_a_small_batch_splits_a_long_context(programs: int, longest: int, splits: int) -> None:
    assert choose_splits(programs=programs, longest=longest, keys_per_step=64, multiprocessors=132) == splits
