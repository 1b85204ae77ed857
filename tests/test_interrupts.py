"""Ctrl-C, SIGTERM and SIGHUP: a line and the exit code within a second, whatever the command is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

_SECONDS = 2.0  # one, and as much again for a machine that is busy with other tests

_PROGRAM = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from vzoom.cli import main
from vzoom.cli.commands import doctor

def ready():
    print("ready", flush=True)

def sleeps(args):
    ready()
    time.sleep(60)

def computes(args):  # not one instruction of Python until it is done
    import torch
    torch.set_num_threads(1)
    x = torch.randn(9000, 9000)
    ready()
    x @ x

def waits_for_a_thread(args):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(time.sleep, 60)
        ready()
        pool.submit(time.sleep, 60).result()

def swallows(args):
    try:
        ready()
        time.sleep(60)
    except KeyboardInterrupt:
        raise ValueError("something of a library was closed") from None

def goes_on(args):
    ready()
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass

def cleans_up(args):
    try:
        ready()
        time.sleep(60)
    finally:
        time.sleep(60)

def forks(args):
    import multiprocessing
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()  # its signal is not ours
    child.join()
    assert child.exitcode == -15, child.exitcode
    time.sleep(1)
    return 0

doctor.run = globals()[sys.argv.pop(1)]
doctor.add = doctor.add_parser
doctor.add_parser = lambda commands: (doctor.add(commands), commands.choices["doctor"].set_defaults(resumes=True))
sys.exit(main())
"""
_LINE = "\nvzoom doctor: stopped by {}: run the same command again to resume\n"


def start(how: str, **options: object) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, how, "doctor"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        **options,  # type: ignore[call-overload]
    )
    assert process.stdout is not None
    if how != "forks":
        assert process.stdout.readline() == "ready\n"
    return process  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("how", "number"),
    [
        *((how, signal.SIGINT) for how in ("computes", "waits_for_a_thread", "swallows", "goes_on", "cleans_up")),
        *(("sleeps", number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)),
    ],
)
def test_a_signal_ends_a_command_within_a_second(how: str, number: signal.Signals) -> None:
    with start(how) as process:
        sent = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - sent < _SECONDS
    assert process.returncode == 128 + number
    line = _LINE.format({2: "Ctrl-C", 15: "SIGTERM", 1: "SIGHUP"}[number])
    assert err == ("vzoom doctor: something of a library was closed\n" if how == "swallows" else "") + line


def test_ctrl_c_twice_ends_it_at_once() -> None:
    with start("cleans_up") as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - sent < _SECONDS
    assert (process.returncode, err) == (130, _LINE.format("Ctrl-C"))


def test_what_nohup_ignores_stays_ignored() -> None:
    with start("sleeps", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as process:
        process.send_signal(signal.SIGHUP)
        time.sleep(1.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143


def test_a_child_that_is_told_to_end_takes_nobody_with_it() -> None:
    with start("forks") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2, 0.5, 1.0, 2.0])
def test_ctrl_c_while_a_command_starts_shows_no_traceback(seconds: float, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vzoom", "synthetic", "eval", "--limit", "50"]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        # Before the first line of ours runs, the interpreter itself answers.
        while b"vzoom" not in Path(f"/proc/{process.pid}/cmdline").read_bytes() or not _catches(process.pid):
            time.sleep(0.002)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - sent < _SECONDS
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "stopped by Ctrl-C" in err


def _catches(pid: int) -> bool:
    """Whether the process has a handler for SIGTERM: Python itself has none."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)
