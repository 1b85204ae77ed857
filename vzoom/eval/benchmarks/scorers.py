"""The rules by which answers are scored. A rule has a name and a version; a changed rule takes the next version."""

from __future__ import annotations

import json

from ...protocol import Choice, Judge, NoChoice, Reference, is_right, read_choice
from ..item import Item, Verdict, judged_in_parts

CHOICE, JUDGED, PARTS = "choice/1", "judge/1", "parts/1"

_NO_JUDGE = "no judge: set VZOOM_JUDGE_URL and VZOOM_JUDGE_MODEL"


def score_choice(item: Item, answer: str, judge: Judge | None = None) -> Verdict:
    """Whether the answer names the right letter, see `protocol.read_choice`. One that names no letter, or several, is
    unparsable: no letter is guessed, and none is drawn by chance."""
    assert item.options
    assert item.reference
    found = read_choice(answer, item.options)
    if isinstance(found, Choice):
        right = is_right(answer, Reference(item.question, item.reference, item.options))
        return Verdict("right" if right is True else "wrong", said=found.letter)
    if found is NoChoice.EMPTY:
        return Verdict("unanswered")
    why = "more than one option is named" if found is NoChoice.AMBIGUOUS else "no option is named"
    return Verdict("unparsable", said=answer.strip(), detail=why)


def score_judged(item: Item, answer: str, judge: Judge | None) -> Verdict:
    """What a judge says of the answer. A judge that fails is no verdict."""
    assert item.reference
    if judge is None:
        return Verdict("unjudged", said=answer.strip(), detail=_NO_JUDGE)
    right = is_right(answer, Reference(item.question, item.reference), judge=judge)
    if isinstance(right, bool):
        return Verdict("right" if right else "wrong", said=answer.strip())
    return Verdict("unjudged", said=answer.strip(), detail=right.reason)


def parts_reference(parts: list[tuple[str, str]]) -> str:
    """A reference that is judged in parts: (question, answer) pairs as JSON."""
    return json.dumps(parts, ensure_ascii=False)


def score_parts(item: Item, answer: str, judge: Judge | None) -> Verdict:
    """Whether the answer, a description, answers each of the reference's questions. One failed verdict and the whole
    item has none: a mean over the others would be another question."""
    assert item.reference
    if judge is None:
        return Verdict("unjudged", said=answer.strip(), detail=_NO_JUDGE)
    num_right, parts = 0, json.loads(item.reference)
    for question, reference in parts:
        asked = f"{question}\n(The answer is a description of the video: it is right if the reference follows from it.)"
        right = is_right(answer, Reference(asked, reference), judge=judge)
        if not isinstance(right, bool):
            return Verdict("unjudged", said=answer.strip(), detail=right.reason)
        num_right += right
    return judged_in_parts(num_right, len(parts), said=answer.strip())
