"""A sentence between tags: `<action>choose frames between 120 and 240</action>`.

CallFormat.tool is the sentence, a template with {start} and {end}; CallFormat.ask another one, which asks for the
number of the frame at {time}.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from ...types import CallError, Malformed
from .. import template
from ..definition import CallFormat
from .base import Said, excerpt, said_if_ended, time_text
from .numbers import number

_VALUE = r"([^\s,;]{1,64})"


@lru_cache(maxsize=64)
def _pattern(sentence: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """Finds the sentence, and the names of its values in order. White space and case do not matter."""
    pieces, names = [], []
    for piece in template.split_template(sentence):
        if isinstance(piece, template.TemplateField):
            names.append(piece.name)
            pieces.append(_VALUE)
        else:
            pieces.append(r"\s{1,16}".join(re.escape(word) for word in re.split(r"\s+", piece)))
    return re.compile("".join(pieces), re.IGNORECASE), tuple(names)


@dataclass(frozen=True)
class Asked:
    """A question for the number of the frame at a time.

    Attributes:
        text: the sentence.
        time: as the model wrote it.
        seconds: the same, if it is a time.
    """

    text: str
    time: str
    seconds: float | None


def asked(text: str, call: CallFormat) -> Asked | None:
    """The question for the number of a frame in a text; None if there is none."""
    found = _pattern(call.ask)[0].search(text) if call.ask else None
    if not found:
        return None
    written = found[1].rstrip(".")
    return Asked(" ".join(found.group().split()), written, number(written))


class Action:
    """See `base.Grammar`."""

    def read(self, body: str, call: CallFormat) -> Said | Malformed:
        if question := asked(body, call):
            return Malformed(_kind(question.seconds), question.text)
        pattern, names = _pattern(call.tool)
        found = pattern.search(body)
        if not found:
            return Malformed(CallError.BAD_JSON, excerpt(body))
        values = {name: number(text.rstrip(".")) for name, text in zip(names, found.groups(), strict=True)}
        if None in values.values():
            return Malformed(CallError.BAD_VALUE, excerpt(body))
        return Said(values.get("start"), values.get("end"), values.get("fps"), values.get("num_frames"))

    def partial(self, body: str, call: CallFormat) -> Said | None:
        return said_if_ended(self, body, call)

    def write(self, said: Said, call: CallFormat) -> str:
        assert said.start is not None
        assert said.end is not None
        return template.fill_template(
            call.tool, {"start": time_text(said.start, call), "end": time_text(said.end, call)}
        )


def _kind(seconds: float | None) -> CallError:
    if seconds is None:
        return CallError.BAD_VALUE
    if not math.isfinite(seconds):
        return CallError.NOT_FINITE
    return CallError.NEGATIVE if seconds < 0 else CallError.FRAME_ASKED
