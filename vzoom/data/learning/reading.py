"""Templates read backwards: from a text that a template gave, the values of its fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...protocol import Frames, TemplateField, split_template
from .chats import IMAGE, VIDEO

_CLOCK, _SHORT_CLOCK = r"\d+:\d\d:\d\d", r"\d+:\d\d"
_TEXTS = ("question", "video_path", "error", "help", "detail", "note")


@dataclass(frozen=True)
class Difference:
    """Where a text leaves a template.

    Attributes:
        at: the first character that differs.
        expected: what the template says there.
        found: what the text says there.
    """

    at: int
    expected: str
    found: str


@dataclass(frozen=True)
class Values:
    """What a text says in the fields of its template.

    Attributes:
        texts: by field, as they are written; "frames" is the whole block of frames.
        labels: what each label of a frame says, by field.
    """

    texts: Mapping[str, str]
    labels: tuple[Mapping[str, str], ...]


def read_values(template: str, text: str, frames: Frames) -> Values | Difference:
    """The values of the fields of a template in a text that it gave.

    Args:
        template: of a turn.
        text: of a message, with a placeholder for each frame.
        frames: how frames are labelled.

    Returns:
        The values, or the first place where the text is none that the template gives. A field that comes twice has
        the same value in both places.
    """
    pieces = split_template(template)
    patterns = [_piece(piece, pieces[:i], frames) for i, piece in enumerate(pieces)]
    if found := re.fullmatch("".join(patterns), text, re.DOTALL):
        texts = {name: value for name, value in found.groupdict().items() if value is not None}
        return Values(texts, tuple(_labels(texts.get("frames", ""), frames)))
    for known in range(len(pieces) - 1, -1, -1):
        if begun := re.match("".join(patterns[:known]), text, re.DOTALL):
            return _difference(pieces[known], text, begun.end())
    raise AssertionError("the empty pattern matches every text")


def first_difference(expected: str, found: str) -> Difference | None:
    """The first place where two texts differ."""
    if expected == found:
        return None
    at = next(
        (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found))
    )
    return Difference(at, expected[at:], found[at:])


def label_pattern(frames: Frames) -> str:
    """A regular expression for a label, with a group for each of its fields."""
    pieces = split_template(frames.label)
    return "".join(_piece(piece, pieces[:i], frames) for i, piece in enumerate(pieces))


def _labels(block: str, frames: Frames) -> list[Mapping[str, str]]:
    pattern = re.compile(f"(?:{re.escape(frames.separator)})?{label_pattern(frames)}{IMAGE}", re.DOTALL)
    return [found.groupdict() for found in pattern.finditer(block)]


def _difference(piece: str | TemplateField, text: str, at: int) -> Difference:
    if isinstance(piece, TemplateField):
        return Difference(at, f"{{{piece.name}}}", text[at:])
    found = first_difference(piece, text[at : at + len(piece)])
    assert found is None or found.at <= len(piece)
    if found is None:  # the words are there, but what must follow them at the end of the text is not
        return Difference(at + len(piece), "the end", text[at + len(piece) :])
    return Difference(at + found.at, found.expected, text[at + found.at :])


def _piece(piece: str | TemplateField, before: tuple[str | TemplateField, ...], frames: Frames) -> str:
    """A regular expression for one piece of a template."""
    if isinstance(piece, str):
        return re.escape(piece)
    if any(isinstance(one, TemplateField) and one.name == piece.name for one in before):
        return f"(?P={piece.name})"
    return f"(?P<{piece.name}>{_value(piece, frames)})"


def _value(field: TemplateField, frames: Frames) -> str:
    if field.name == "frames":
        if frames.encoding == "video":
            return VIDEO
        label = re.sub(r"\(\?P<\w+>", "(?:", label_pattern(frames))
        return f"{label}{IMAGE}(?:{re.escape(frames.separator)}{label}{IMAGE})*"
    if field.name in _TEXTS:
        return ".*?"
    if "clock" in field.name:
        return _SHORT_CLOCK if "short" in field.name else _CLOCK
    if field.name == "short_duration":
        return _SHORT_CLOCK
    if digits := re.fullmatch(r"0?\d*\.(\d+)f", field.spec):
        return r"-?\d+" + (rf"\.\d{{{digits[1]}}}" if int(digits[1]) else "")
    return r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
