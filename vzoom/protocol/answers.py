"""Which option of a multiple-choice question an answer names.

Read as an answer: "A", "a", "(A)", "A)", "A.", "A: text", "**A**", "\\boxed{A}", "The answer is A", "Option A is
correct", and an option's own text. Never read: a letter from a thought, an article ("A man walks"), a letter that is
denied ("not A"). If two readings disagree there is no answer: a guess would be paid as if it were knowledge.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ..types import Answer
from .parse import acting_text, parse_turn
from .protocol_file import builtin_protocol

LETTERS = string.ascii_uppercase


class NoChoice(StrEnum):
    """Why an answer names no option."""

    EMPTY = "empty"  # nothing was said outside thoughts
    UNKNOWN = "unknown"  # what was said is no option
    AMBIGUOUS = "ambiguous"  # more than one option was named


@dataclass(frozen=True)
class Choice:
    """The option that was named: `letter` of options[index]."""

    index: int

    @property
    def letter(self) -> str:
        return LETTERS[self.index]


def read_choice(answer: str | None, options: Sequence[str]) -> Choice | NoChoice:
    """The option that an answer names.

    Args:
        answer: the text between the answer tags, or a whole turn with its thought and tags; None for no answer.
        options: their texts in order, with or without a label of their own ("A. red").

    Returns:
        The option, or why none can be told.

    Raises:
        ValueError: fewer than 2 or more than 26 options.
    """
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"a multiple-choice question has 2 to {len(LETTERS)} options, got {len(options)}")
    said = _plain(_outside_thoughts(answer or ""))
    if not said:
        return NoChoice.EMPTY
    texts = _option_texts(options)
    named = _read(said, texts)
    for cue in _CUE.finditer(said):
        named |= _read(said[cue.end() :].lstrip(), texts)
    if len(named) == 1:
        return Choice(named.pop())
    return NoChoice.AMBIGUOUS if len(named | _mentioned(said, len(texts))) > 1 else NoChoice.UNKNOWN


# "the answer is", "correct option:", "Answer -"; a verb or a sign must follow, so that "isn't" is no cue.
_CUE = re.compile(
    r"\b(?:answer|option|choice)\s*(?:(?:is|was|would be|should be|must be)\b\s*:?|[:=]|[-–—]\s)\s*", re.IGNORECASE
)
_LABEL = r"(?:option|choice|answer)\s+"
_HEAD = re.compile(
    rf"(?:{_LABEL})?[(\[]?(?P<letter>[A-Za-z])(?:(?:\s*[)\].:,;!?]+|\s+[-–—](?=\s)|\s*\n)(?P<rest>.*)|$)",
    re.IGNORECASE | re.DOTALL,
)
_CONFIRMED = re.compile(
    r"\s+is\s+(?:(?:the\s+)?(?:correct|right|best)(?:\s+(?:answer|option|choice|one))?|the\s+(?:answer|one))[.!]*$",
    re.IGNORECASE,
)
_BECAUSE = re.compile(r"(?<=[A-Za-z)\]])\s+(?=(?:because|since)\b)", re.IGNORECASE)
_ARTICLE = re.compile(r"(?:the|an?)\s+", re.IGNORECASE)
_EDGES = " \t\n\"'`.,;:!?“”‘’"


def _outside_thoughts(text: str) -> str:
    """What is said after the last closed thought, and before one that is never closed; answer tags taken off."""
    protocol = builtin_protocol("vzoom")
    acting = acting_text(text, protocol)[0]
    if protocol.answer.open not in acting:
        return acting
    outcome = parse_turn(acting, protocol, video_fps=1.0)
    return outcome.text if isinstance(outcome, Answer) else ""


def _plain(text: str) -> str:
    r"""Without markup: **bold**, `code`, $math$, \boxed{…}, \text{…}."""
    text = unicodedata.normalize("NFKC", text)
    for _ in range(2):  # \boxed{\text{A}}
        text = re.sub(r"\\(?:boxed|text|mathrm|textbf)\s*\{([^{}]*)\}", r"\1", text)
    return re.sub(r"[*_`$]+(?=\S)|(?<=\S)[*_`$]+", "", text).strip()


def _bare(text: str) -> str:
    """For comparison: one case, single spaces, no punctuation at the edges, no article in front."""
    text = " ".join(text.casefold().split()).strip(_EDGES)
    return _ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text


def _option_texts(options: Sequence[str]) -> list[str]:
    """Bare texts, without their own labels if every option has one."""
    texts = [_plain(option) for option in options]
    heads = [re.match(rf"\(?{letter}\s*[).:]\s*", text) for letter, text in zip(LETTERS, texts, strict=False)]
    return [_bare(text[head.end() :] if all(heads) and head else text) for head, text in zip(heads, texts, strict=True)]


def _read(said: str, texts: list[str]) -> set[int]:
    """The options that `said` names from its first character on."""
    said = _CONFIRMED.sub("", said)
    whole = {i for i, text in enumerate(texts) if text and text == _bare(said)}
    head = _HEAD.match(_BECAUSE.sub(", ", said, count=1))
    letter = LETTERS.find(head["letter"].upper()) if head else -1
    if head is None or not 0 <= letter < len(texts):
        spaced = re.match(r"[(\[]?([A-Za-z])[)\]]?\s+(.+)", said, re.DOTALL)  # "B ring": only with B's own text
        if spaced and (at := LETTERS.find(spaced[1].upper())) < len(texts) and texts[at] == _bare(spaced[2]):
            return {at}
        return whole
    rest = (head["rest"] or "").strip()
    if whole and rest:  # an option whose text looks like a label: "E. coli"
        return whole
    if texts[letter] == _bare(rest):  # whatever else that text may say: "A: Vitamin C"
        return {letter}
    said_too = {i for i, text in enumerate(texts) if text and text == _bare(rest)}
    return {letter} | whole | said_too | _mentioned(rest, len(texts))


def _mentioned(text: str, num_options: int) -> set[int]:
    """Letters that stand alone, "(b)" in brackets too; an A or I in front of a word is none."""
    found = re.findall(r"\(([A-Za-z])\)|(?<![\w'])(?:([B-HJ-Z])|([AI])(?!\s+(?!or\b|and\b)[a-z]))(?![\w'])", text)
    letters = {LETTERS.find(next(filter(None, groups)).upper()) for groups in found}
    return {i for i in letters if 0 <= i < num_options}
