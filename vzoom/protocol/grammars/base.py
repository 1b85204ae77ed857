"""What every grammar does: text between the tags of a call -> what it says, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from typing import Protocol as Structural

from ...types import CallError, Malformed
from ..definition import CallFormat
from .numbers import clock, number, plain


@dataclass(frozen=True)
class Said:
    """What a call says, in its own unit (seconds or frame numbers); None for what it leaves out.

    The values are numbers, but any: `read.py` holds them to their ranges.
    """

    start: float | None
    end: float | None
    fps: float | None = None
    num_frames: float | None = None


class Grammar(Structural):
    """A grammar of calls. `body` is the text between the tags, at most CallFormat.max_characters long."""

    def read(self, body: str, call: CallFormat) -> Said | Malformed:
        """What a call says, or what is wrong with it."""
        ...

    def partial(self, body: str, call: CallFormat) -> Said | None:
        """What an unfinished call seems to say; None until start and end are certain."""
        ...

    def write(self, said: Said, call: CallFormat) -> str:
        """The one strict spelling. ValueError if a number is not finite."""
        ...


def excerpt(text: str, limit: int = 120) -> str:
    """The head of a text on one line, for a model to recognise what it wrote."""
    text = " ".join(text[: 16 * limit].split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def said_by_arguments(given: Mapping[str, Any], names: Mapping[str, str], body: str) -> Said | Malformed:
    """What a table of arguments says.

    Args:
        given: the arguments, as the model wrote them.
        names: the model's name for each of vzoom's.
        body: the whole call, for the message.
    """
    found: dict[str, float] = {}
    is_short = names.get("fps", "") not in given and "fps" in names
    wrong = Malformed(CallError.MISSING_KEY if is_short else CallError.BAD_VALUE, excerpt(body))
    for ours, theirs in names.items():
        if theirs not in given:
            continue
        if ours == "segment":
            pair = given[theirs]
            if not isinstance(pair, list) or len(pair) != 2:
                return wrong
            values = {"start": number(pair[0]), "end": number(pair[1])}
        else:
            values = {ours: number(given[theirs])}
        for name, value in values.items():
            if value is None:
                return wrong
            found.setdefault(name, value)
    return Said(found.get("start"), found.get("end"), found.get("fps"), found.get("num_frames"))


def said_if_ended(grammar: Grammar, body: str, call: CallFormat) -> Said | None:
    """What an unfinished call of plain text says, once something follows its last number: a digit may until then."""
    if not body[-1:].isspace() and not body.endswith("<"):
        return None
    said = grammar.read(body.rstrip("<"), call)
    return said if isinstance(said, Said) else None


def arguments_of(said: Said, call: CallFormat) -> str:
    """The arguments of a call as JSON, in the order of CallFormat.arguments."""
    values = {"start": said.start, "end": said.end, "fps": said.fps, "num_frames": said.num_frames}
    pairs = []
    for ours, theirs in call.arguments.items():
        if ours == "segment":
            assert said.start is not None
            assert said.end is not None
            pairs.append(f'"{theirs}": [{_json(said.start, call)}, {_json(said.end, call)}]')
        elif (value := values[ours]) is not None:
            pairs.append(f'"{theirs}": {_json(value, call) if ours in ("start", "end") else plain(value)}')
    return "{" + ", ".join(pairs) + "}"


def time_text(value: float, call: CallFormat) -> str:
    """A time in the format of the protocol."""
    if call.time_format == "number":
        return plain(value)
    return clock(float(plain(value)), hours=call.time_format == "clock")


def _json(value: float, call: CallFormat) -> str:
    text = time_text(value, call)
    return text if call.time_format == "number" else f'"{text}"'
