r"""A list of start and end in \boxed{}: `\boxed{[3, 5.5]}`. Anything else in \boxed{} is an answer."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...types import CallError, Malformed
from ..definition import CallFormat
from .base import Said, excerpt, time_text
from .numbers import number

OPEN, CLOSE = "\\boxed{", "}"
_LIST = re.compile(r"[\[(]([^,\[\]()]{1,64}),([^,\[\]()]{1,64})[\])]")
_BRACE = re.compile(r"\\boxed\{|[{}]")


class Boxed:
    """See `base.Grammar`."""

    def read(self, body: str, call: CallFormat) -> Said | Malformed:
        found = _LIST.fullmatch(body.strip())
        if not found:
            return Malformed(CallError.BAD_JSON, excerpt(body))
        start, end = (number(text.strip().strip("\"'")) for text in found.groups())
        if start is None or end is None:
            return Malformed(CallError.BAD_VALUE, excerpt(body))
        return Said(start, end)

    def partial(self, body: str, call: CallFormat) -> Said | None:
        said = self.read(body, call)
        return said if isinstance(said, Said) else None

    def write(self, said: Said, call: CallFormat) -> str:
        assert said.start is not None
        assert said.end is not None
        return f"[{time_text(said.start, call)}, {time_text(said.end, call)}]"


def is_call(body: str) -> bool:
    """Whether what stands in a box is meant as a call: a list of two."""
    return _LIST.fullmatch(body.strip()) is not None


def boxes(text: str) -> Iterator[tuple[str, bool]]:
    r"""(what stands in it, whether it is closed) of each \boxed{} that is not in another one. Braces in it count."""
    depth, begin, first = 0, 0, text.find(OPEN)
    for found in _BRACE.finditer(text, first) if first >= 0 else ():
        if depth:
            depth += -1 if found.group() == "}" else 1
            if depth == 0:
                yield text[begin : found.start()], True
        elif found.group() == OPEN:
            depth, begin = 1, found.end()
    if depth:
        yield text[begin:], False
