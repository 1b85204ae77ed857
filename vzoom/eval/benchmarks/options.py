"""Options of multiple-choice questions: as a benchmark spells them, and as the model is given them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...protocol import LETTERS
from .rows import AnnotationRow

MULTIPLE_CHOICE = "{question}\n{options}\nAnswer with the letter of the right option."

_DOTTED = re.compile(r"\s*([A-Z])\.\s*(.*)")  # "A. red"
_BRACKETED = re.compile(r"\s*\(([A-Z])\)\s*(.*)")  # "(A) red"


def listed(options: Sequence[str]) -> str:
    """One per line, "A. red"."""
    return "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False))


def unlabelled(options: Sequence[str]) -> tuple[str, ...]:
    """Without the labels "A. ", "B. " … if every option has its own."""
    found = [_DOTTED.fullmatch(option) for option in options]
    if all(m and m[1] == letter for m, letter in zip(found, LETTERS, strict=False)):
        return tuple(m[2].strip() for m in found if m)
    return tuple(options)


def letter_of_option(answer: str, options: Sequence[str], row: AnnotationRow) -> str:
    """The letter of the option whose whole text is the answer; the first where two are the same."""
    if answer not in options:
        row.fail(f"the answer {answer!r} is none of the options {list(options)}")
    return LETTERS[list(options).index(answer)]


def split_dotted(text: str) -> tuple[str, tuple[str, ...]]:
    """The question and its options, from a text that ends in lines "A. red"."""
    return _split(text, _DOTTED)


def split_bracketed(text: str) -> tuple[str, tuple[str, ...]]:
    """The question and its options, from a text that ends in lines "(A) red"."""
    return _split(text, _BRACKETED)


def _split(text: str, label: re.Pattern[str]) -> tuple[str, tuple[str, ...]]:
    """Options are the labelled lines from the last "A" on, as long as their letters follow the alphabet; a line
    without a label belongs to the option before it. No options if there is no "A"."""
    lines = text.strip().splitlines()
    found = [label.fullmatch(line) for line in lines]
    begin = max((i for i, m in enumerate(found) if m and m[1] == "A"), default=len(lines))
    options: list[str] = []
    for line, m in zip(lines[begin:], found[begin:], strict=True):
        if m and len(options) < len(LETTERS) and m[1] == LETTERS[len(options)]:
            options.append(m[2].strip())
        elif line.strip():
            options[-1] = f"{options[-1]} {line.strip()}"
    return "\n".join(lines[:begin]).strip(), tuple(options)
