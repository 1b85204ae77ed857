"""How far a long list is: the callback that is told, and two that are often passed."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[int, int, str], None]  # (done, of how many, a line about it)


def silence(done: int, total: int, line: str) -> None:
    """Say nothing."""


class EveryTenth:
    """Passes on one line for every tenth part of the way.

    Args:
        say: gets the lines, as "  12/120: 11 kept".
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._tenth = say, -1

    def __call__(self, done: int, total: int, line: str) -> None:
        if (tenth := done * 10 // total) != self._tenth:
            self._tenth = tenth
            self._say(f"  {done}/{total}: {line}")
