"""Ctrl-C, SIGTERM and SIGHUP: they end a command within a second, whatever it is doing, with a line that says so.

Python handles a signal between two instructions of the main thread. It may be in a long operation of torch just then,
or wait for threads on its way out. So a thread of its own watches: what has not ended after a moment, or is told a
second time, is ended by it. Whatever vzoom writes survives that: kill -9 is part of the tests.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

_GRACE_SECONDS = 0.6  # for what is being done; the exit code is there within a second
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}

_guards: weakref.WeakSet[_Guard] = weakref.WeakSet()


def run_until_signal(run: Callable[[], int], *, line: Callable[[str], str], is_program: bool) -> int:
    """Run a command until it ends, or Ctrl-C, SIGTERM or SIGHUP stops it.

    A signal that this process was started to ignore (as `nohup` does) stays ignored.

    Args:
        run: the command; a signal raises KeyboardInterrupt in it.
        line: what is printed on stderr if it was stopped, given by what.
        is_program: the process is this command's, and ends with it: after a signal it waits for no thread.

    Returns:
        What `run` returns; 128 + the signal's number if it was stopped.
    """
    if threading.current_thread() is not threading.main_thread():
        return run()
    guard = _Guard(line)
    try:
        code: int | None = None
        try:
            guard.arm()
            code = run()
            guard.is_armed = False
        except KeyboardInterrupt:
            guard.number = guard.number or signal.SIGINT
        except BaseException:
            if guard.number is None:  # else it comes of the interrupt, in some library on the way
                raise
        guard.is_armed = False
        if guard.number is None:
            assert code is not None, "a command returns its exit code"
            return code
        guard.tell(guard.number)
        if is_program:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
            os._exit(128 + guard.number)
        return 128 + guard.number
    finally:
        if not is_program:  # else it watches until the interpreter is gone
            guard.close()


class _Guard:
    """Handlers of the three signals, and the thread that watches.

    Attributes:
        number: of the first signal that came, if one did.
        is_armed: whether a signal raises KeyboardInterrupt in the main thread.
    """

    def __init__(self, line: Callable[[str], str]) -> None:
        self.number: int | None = None
        self.is_armed = False
        self._line = line
        self._is_told = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._old = {
            number: signal.signal(number, self._handle)
            for number in _NAMES
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        self._old_wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="vzoom-signals", daemon=True)
        self._thread.start()
        _guards.add(self)

    def arm(self) -> None:
        """From now on a signal raises KeyboardInterrupt; at once if one has come already."""
        self.is_armed = True
        if self.number is not None:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Give the signals back, and end the thread."""
        self.disarm()
        os.close(self._write)  # the thread sees the end of the pipe
        self._thread.join()
        os.close(self._read)

    def disarm(self) -> None:
        """Give the signals back to whoever had them."""
        _guards.discard(self)
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def tell(self, number: int) -> None:
        """Say once what stopped the command."""
        if not self._is_told:
            self._is_told = True
            with suppress(OSError, ValueError):  # the terminal may be gone
                print(f"\n{self._line(_NAMES[signal.Signals(number)])}", file=sys.stderr, flush=True)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number
            if self.is_armed:
                raise KeyboardInterrupt

    def _watch(self) -> None:
        number, end = 0, 0.0
        while True:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()) if number else None)
            came = os.read(self._read, 1) if ready else None
            if came == b"":
                return
            if came is not None and came[0] not in self._old:
                continue  # some other signal that Python code handles
            if number:  # for the second time, or too slow
                self.tell(number)
                os._exit(128 + number)
            assert came is not None
            number, end = came[0], time.monotonic() + _GRACE_SECONDS


class _Masks(threading.local):
    """The signals that each thread blocked before it began to fork."""

    old: set[int | signal.Signals] | None = None


_masks = _Masks()


def _before_fork() -> None:
    # A signal to the child that comes before it has given them back would be lost: it waits for that.
    _masks.old = signal.pthread_sigmask(signal.SIG_BLOCK, _NAMES) if _guards else None


def _in_parent() -> None:
    if _masks.old is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.old)


def _in_child() -> None:
    """A child is no command: its signals are its own, and its parent's watch must not hear of them."""
    for guard in list(_guards):
        guard.disarm()
    _in_parent()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
