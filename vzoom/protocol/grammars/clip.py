"""A span of time between tags: `<clip>00:00:05-00:00:10</clip>`."""

from __future__ import annotations

import re

from ...types import CallError, Malformed
from ..definition import CallFormat
from .base import Said, excerpt, said_if_ended, time_text
from .numbers import number

_SPAN = re.compile(r"([^\s,;–—-]{1,64})\s{0,16}(?:[-–—,;]|to\b)\s{0,16}([^\s,;–—-]{1,64})")


class Clip:
    """See `base.Grammar`."""

    def read(self, body: str, call: CallFormat) -> Said | Malformed:
        found = _SPAN.fullmatch(body.strip().strip("[]()"))
        if not found:
            return Malformed(CallError.BAD_JSON, excerpt(body))
        start, end = number(found[1]), number(found[2])
        if start is None or end is None:
            return Malformed(CallError.BAD_VALUE, excerpt(body))
        return Said(start, end)

    def partial(self, body: str, call: CallFormat) -> Said | None:
        return said_if_ended(self, body, call)

    def write(self, said: Said, call: CallFormat) -> str:
        assert said.start is not None
        assert said.end is not None
        return f"{time_text(said.start, call)}-{time_text(said.end, call)}"
