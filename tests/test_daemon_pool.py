"""Threads that never hold up the end of the process, and are not cut off in the middle of what is short."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

_PROGRAM = """
import sys, time
from pathlib import Path
from vzoom.engine.daemon_pool import DaemonPool
pool = DaemonPool(1, "test")
def work():
    time.sleep(float(sys.argv[1]))
    Path(sys.argv[2]).write_text("done")
future = pool.submit(work)
while not future.running():
    time.sleep(0.001)
print(time.time())
"""


@pytest.mark.parametrize(("seconds", "is_done"), [(0.2, True), (60.0, False)])
def test_the_end_of_the_process_waits_for_what_is_short(tmp_path: Path, seconds: float, is_done: bool) -> None:
    file = tmp_path / "file"
    command = [sys.executable, "-c", _PROGRAM, str(seconds), str(file)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    ended = time.time()
    assert run.returncode == 0, run.stderr
    assert file.exists() == is_done
    assert ended - float(run.stdout) < 20  # and not for what takes long
