"""kill -9 at random moments of a training, which is started again after each."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

KILLS = int(os.environ.get("VZOOM_KILLS", "2"))
_LONGEST_SECONDS = 300.0  # that a process may take to the next line of its log


def killed_again_and_again(command: Sequence[str], out: Path, *, lines: int, seed: int) -> None:
    """Run `command`, which writes `lines` lines to out/log.jsonl, through KILLS kills to its end.

    Some hit it while it starts, some within a step, some while it keeps a checkpoint.
    """
    draw = random.Random(seed)
    for moment in sorted(draw.choices(range(lines - 1), k=KILLS)):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        since = time.monotonic()
        while _lines(out) < moment:
            assert process.poll() is None, f"it ended with {process.returncode} before line {moment} of {lines}"
            assert time.monotonic() - since < _LONGEST_SECONDS, f"no line {moment} of {lines}"
            time.sleep(0.01)
        # What was written before the last kill is there at once: let it load, or come a part of the way.
        time.sleep(draw.uniform(0.0, 4.0) if time.monotonic() - since < 1 else draw.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, f"it was finished before it was killed at line {moment}"
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def _lines(out: Path) -> int:
    log = out / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0
