"""What goes to the terminal: colours if they are wanted, and no control characters from foreign text."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any, TextIO

_CODES = {"dim": "2", "bold": "1", "cyan": "36", "green": "1;32", "red": "1;31", "yellow": "33"}
# Escape sequences in a model's text or a file's name could rewrite the screen.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """`text` with control characters, except newline and tab, shown as U+FFFD."""
    return _CONTROL.sub("\ufffd", text)


class Style:
    """Colours for one stream: only on a terminal, and not if NO_COLOR is set (no-color.org)."""

    def __init__(self, stream: TextIO) -> None:
        self.enabled = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def __call__(self, text: str, style: str) -> str:
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self.enabled else text


def note(text: str) -> None:
    """A line for the reader that is no part of the result."""
    print(Style(sys.stderr)(f"note: {printable(text)}", "yellow"), file=sys.stderr, flush=True)


def print_json(value: dict[str, Any]) -> None:
    """The one object of `--json`, on one line."""
    print(json.dumps(value, allow_nan=False))
