"""How far a command is: one line on stderr that is written over on a terminal, and a few lines elsewhere."""

from __future__ import annotations

import sys

from .console import printable

_START_OF_LINE, _ERASE = "\r", "\x1b[K"


class CountLine:
    """Says "32/400: what is to be said", in place on a terminal, else once for every tenth of the way.

    name: put before it. every: a line for each call, also on a terminal.
    """

    def __init__(self, name: str = "", *, every: bool = False) -> None:
        self._name, self._every, self._tenth = name, every, -1

    def __call__(self, done: int, total: int, more: str = "") -> None:
        tenth, line = done * 10 // total, printable(f"{self._name}{done}/{total}{f': {more}' if more else ''}")
        if sys.stderr.isatty() and not self._every:
            end = "\n" if done == total else ""
            print(f"{_START_OF_LINE}{line}{_ERASE}", end=end, file=sys.stderr, flush=True)
        elif self._every or tenth != self._tenth:
            print(line, file=sys.stderr, flush=True)
        self._tenth = tenth


class StageLine:
    """Says what is being done now: in place on a terminal, a line for each stage elsewhere."""

    def __call__(self, stage: str) -> None:
        if sys.stderr.isatty():
            print(f"{_START_OF_LINE}{_ERASE}{printable(stage)}", end="", file=sys.stderr, flush=True)
        else:
            print(printable(stage), file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leaves nothing of it on a terminal."""
        if sys.stderr.isatty():
            print(f"{_START_OF_LINE}{_ERASE}", end="", file=sys.stderr, flush=True)
