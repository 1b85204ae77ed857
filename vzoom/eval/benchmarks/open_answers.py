"""Open answers that a rule can check: a number, or a short text. For the open questions of VideoMMMU."""

from __future__ import annotations

import re

from ...protocol import Judge
from ..item import Item, Verdict

OPEN = "open/1"

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
_CUE = re.compile(r"=|:|≈|\b(?:is|are|be|equals)\b", re.IGNORECASE)


def score_open(item: Item, answer: str, judge: Judge | None = None) -> Verdict:
    """Whether an open answer is right.

    A numeric reference is compared, rounded to two decimals, with the first number after the last "=", ":" or "is" that
    a number follows, else with the first number of all. A text must be in the answer as whole words; a single letter
    must open it. Of a reference "['a', 'b']" either is right.
    """
    assert item.reference
    said = " ".join(answer.split())
    wanted = _alternatives(item.reference)
    number = _number_said(said)
    if number is None and all(_as_number(w) is not None for w in wanted):
        return Verdict("unparsable", said=said, detail="the answer holds no number")
    right = any(_is_said(one, said, number) for one in wanted)
    return Verdict("right" if right else "wrong", said=said)


def _alternatives(reference: str) -> list[str]:
    """One text, or the members of a list that is spelled out; published ones are not always closed properly."""
    reference = reference.strip()
    if not (reference.startswith("[") and reference.endswith("]")):
        return [reference]
    return [part.strip(" '\"") for part in reference[1:-1].split(",") if part.strip(" '\"")]


def _is_said(wanted: str, said: str, number: float | None) -> bool:
    value = _as_number(wanted)
    if value is not None:
        return number is not None and round(number, 2) == round(value, 2)
    if len(wanted) == 1:
        return re.fullmatch(rf"[(\[]?{re.escape(wanted)}(?:[)\].:,].*)?", said, re.IGNORECASE) is not None
    return re.search(rf"(?<!\w){re.escape(' '.join(wanted.split()))}(?!\w)", said, re.IGNORECASE) is not None


def _number_said(said: str) -> float | None:
    starts = [cue.end() for cue in _CUE.finditer(said)]
    for begin in [*reversed(starts), 0]:
        if found := _NUMBER.search(said, begin):
            return _as_number(found[0])
    return None


def _as_number(text: str) -> float | None:
    text = text.strip()
    return float(text.replace(",", "")) if _NUMBER.fullmatch(text) else None
