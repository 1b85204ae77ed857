"""Templates read backwards: from a text that a template gave, the values of its fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...protocol import Frames, TemplateField, split_template
from .chats import IMAGE, VIDEO

_CLOCK, _SHORT_CLOCK = r"\d+:\d\d:\d\d", r"\d+:\d\d"
_TEXTS = ("before", "after", "question", "video_path", "error", "help", "detail", "note")


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
        texts: by field, as they are written; "frames" is the whole block of frames, and frames_b that of a second clip.
        labels: what each label of a frame says, by field.
        frames_per_clip: how many of the labels each block has.
    """

    texts: Mapping[str, str]
    labels: tuple[Mapping[str, str], ...]
    frames_per_clip: tuple[int, ...]


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
        blocks = [_labels(block, frames) for name, block in texts.items() if _plain_name(name) == "frames"]
        return Values(texts, tuple(label for block in blocks for label in block), tuple(map(len, blocks)))
    for known in range(len(pieces) - 1, -1, -1):
        if begun := re.match("".join(patterns[:known]), text, re.DOTALL):
            before = pieces[known - 1] if known else ""
            is_text = isinstance(before, TemplateField) and _plain_name(before.name) in _TEXTS
            return _difference(pieces[known], text, begun.end(), after_text=is_text)
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


def _difference(piece: str | TemplateField, text: str, at: int, *, after_text: bool) -> Difference:
    """Where `piece`, which should follow at `at`, is not. after_text: a text of any length is before it."""
    if isinstance(piece, TemplateField):
        return Difference(at, f"{{{piece.name}}}", text[at:])
    starts = range(at, len(text) + 1) if after_text else (at,)
    common = {start: _common_length(piece, text, start) for start in starts}
    best = max(common, key=lambda start: common[start])
    length = common[best]
    return Difference(best + length, piece[length:] or "the end", text[best + length :])


def _common_length(piece: str, text: str, start: int) -> int:
    """How many characters of `piece` stand in `text` from `start` on."""
    found = first_difference(piece, text[start : start + len(piece)])
    return len(piece) if found is None else found.at


def _piece(piece: str | TemplateField, before: tuple[str | TemplateField, ...], frames: Frames) -> str:
    """A regular expression for one piece of a template."""
    if isinstance(piece, str):
        return re.escape(piece)
    if any(isinstance(one, TemplateField) and one.name == piece.name for one in before):
        return f"(?P={piece.name})"
    return f"(?P<{piece.name}>{_value(piece, frames)})"


def clip_field(name: str, number: int) -> str:
    """The name of a field of one of several clips: frames, frames_b, frames_c, …"""
    return f"{name}_{'abcdefghijklmnopqrstuvwxyz'[number]}" if number else name


def _plain_name(name: str) -> str:
    """The name of a field, without the letter that tells the second clip from the first."""
    return name[:-2] if name[-2:-1] == "_" else name


def _value(field: TemplateField, frames: Frames) -> str:
    name = _plain_name(field.name)
    if name == "frames":
        if frames.encoding == "video":
            return VIDEO
        label = re.sub(r"\(\?P<\w+>", "(?:", label_pattern(frames))
        return f"{label}{IMAGE}(?:{re.escape(frames.separator)}{label}{IMAGE})*"
    if name in _TEXTS:
        return ".*?"
    if "clock" in name:
        return _SHORT_CLOCK if "short" in name else _CLOCK
    if name == "short_duration":
        return _SHORT_CLOCK
    if digits := re.fullmatch(r"0?\d*\.(\d+)f", field.spec):
        return r"-?\d+" + (rf"\.\d{{{digits[1]}}}" if int(digits[1]) else "")
    return r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
