"""Stops at random moments of a command, which is started again after each: kill -9, SIGTERM, SIGHUP, Ctrl-C, twice.

`VZOOM_KILLS=30 pytest tests -k "stopped or killed"` stops each of them thirty times.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KILLS = int(os.environ.get("VZOOM_KILLS", "2"))
_LONGEST_SECONDS = 300.0  # that a process may take to the next line of its log


@dataclass(frozen=True)
class Stop:
    """How a command is stopped, and the exit code that it has then."""

    signals: tuple[signal.Signals, ...]
    code: int

    def __call__(self, pid: int, draw: random.Random) -> None:
        """Stop a process."""
        for number in self.signals:
            with suppress(ProcessLookupError):  # the first was enough
                os.kill(pid, number)
            time.sleep(draw.uniform(0.0, 0.2) if number is not self.signals[-1] else 0.0)


STOPS = (
    Stop((signal.SIGKILL,), -signal.SIGKILL),
    Stop((signal.SIGINT,), 130),
    Stop((signal.SIGTERM,), 143),
    Stop((signal.SIGHUP,), 129),
    Stop((signal.SIGINT, signal.SIGINT), 130),
)


def stops(count: int, first: int = 0) -> list[Stop]:
    """So many, of all kinds in turn."""
    return [STOPS[(first + i) % len(STOPS)] for i in range(count)]


def stopped_again_and_again(
    start: Callable[[], int], wait: Callable[[], int], reset: Callable[[], None], *, seconds: float, seed: int
) -> None:
    """Start a command, which takes `seconds` if nothing disturbs it, stop it in every way, and let it end.

    Args:
        start: starts it; its pid.
        wait: waits for its end; its exit code.
        reset: removes what it has done. It is called after the command was faster than the stop.
        seconds: that it takes.
        seed: of the moments.
    """
    draw = random.Random(seed)
    waiting = stops(max(len(STOPS), KILLS), seed)
    while waiting:
        pid = start()
        time.sleep(draw.uniform(0.0, seconds))
        waiting[0](pid, draw)
        code = wait()
        assert code in (waiting[0].code, 0), f"{waiting[0]} ended it with {code}"
        if code == 0:
            seconds *= 0.7
            reset()
        else:
            waiting.pop(0)
    start()
    assert wait() == 0


def killed_again_and_again(command: Sequence[str], out: Path, *, lines: int, seed: int) -> None:
    """Run `command`, which writes `lines` lines to out/log.jsonl, through KILLS stops of all kinds to its end.

    Some hit it while it starts, some within a step, some while it keeps a checkpoint.
    """
    draw = random.Random(seed)
    for moment, stop in zip(sorted(draw.choices(range(lines - 1), k=KILLS)), stops(KILLS, seed), strict=True):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        since = time.monotonic()
        while _lines(out) < moment:
            assert process.poll() is None, f"it ended with {process.returncode} before line {moment} of {lines}"
            assert time.monotonic() - since < _LONGEST_SECONDS, f"no line {moment} of {lines}"
            time.sleep(0.01)
        # What was written before the last stop is there at once: let it load, or come a part of the way.
        time.sleep(draw.uniform(0.5, 4.0) if time.monotonic() - since < 1 else draw.uniform(0.0, 0.5))
        stop(process.pid, draw)
        code = process.wait()
        if code != -stop.signals[0]:  # which it is before it listens to signals: while Python starts
            assert code == stop.code, f"{stop} at line {moment} ended it with {code}"
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def _lines(out: Path) -> int:
    log = out / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0
