"""What texts have in common: fixed words, and between them the numbers and texts that differ.

A few rows of published data are often odd, so "common" is what nearly all share; the check of the result names the
others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T", bound=Hashable)
_NUMBER = re.compile(r"\d+:\d\d:\d\d|\d+:\d\d|\d+\.\d+|\d+")
_NEARLY_ALL = 0.9


def nearly_all(flags: Iterable[bool]) -> bool:
    """Whether nearly all are true; False for none at all."""
    found = list(flags)
    return bool(found) and sum(found) >= _NEARLY_ALL * len(found)


def most_common(values: Iterable[T]) -> T:
    """The value that comes most often; of several, the first."""
    return Counter(values).most_common(1)[0][0]


def split_numbers(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(words, numbers) of a text: words[0], numbers[0], words[1], …, words[-1]. A number may be a clock time."""
    words: list[str] = []
    numbers: list[str] = []
    done = 0
    for found in _NUMBER.finditer(text):
        words.append(text[done : found.start()])
        numbers.append(found.group())
        done = found.end()
    return (*words, text[done:]), tuple(numbers)


@dataclass(frozen=True)
class Varying:
    """Numbers in one place of several texts: `numbers[i]` is that of the text that `owners[i]` says."""

    numbers: tuple[str, ...]
    owners: tuple[int, ...]


Pieces = list["str | Varying"]


def align(texts: Sequence[str], owners: Sequence[int]) -> Pieces:
    """The pieces of texts that have the same words (`split_numbers`) and differ in numbers only."""
    parts = [split_numbers(text) for text in texts]
    pieces: Pieces = []
    for i, word in enumerate(parts[0][0]):
        pieces.append(word)
        if i < len(parts[0][1]):
            numbers = [numbers[i] for _, numbers in parts]
            usual = most_common(numbers)
            fixed = len(texts) > 1 and nearly_all(number == usual for number in numbers)
            pieces.append(usual if fixed else Varying(tuple(numbers), tuple(owners)))
    return merged(pieces)


def merged(pieces: Pieces) -> Pieces:
    """The same with neighbouring words in one piece, and no empty piece."""
    found: Pieces = []
    for piece in pieces:
        if isinstance(piece, str) and found and isinstance(found[-1], str):
            found[-1] += piece
        elif piece != "":
            found.append(piece)
    return found


def around(texts: Sequence[str], owners: Sequence[int]) -> tuple[Pieces, Pieces]:
    """What stands before and after a text that differs from one to the next.

    Args:
        texts: two or more.
        owners: for `Varying.owners`, one per text.

    Returns:
        The pieces at the start and those at the end that nearly all have in common. A border is never within a word.
    """
    before, rests = _leading(texts, owners)
    after, _ = _leading([rest[::-1] for rest in rests], owners)
    turned = [p[::-1] if isinstance(p, str) else Varying(tuple(n[::-1] for n in p.numbers), p.owners) for p in after]
    return merged(before), merged(turned[::-1])


def _leading(texts: Sequence[str], owners: Sequence[int]) -> tuple[Pieces, list[str]]:
    """The pieces that nearly all texts begin with, and what each of these has after them (the others have all)."""
    pieces: Pieces = []
    rests = dict(enumerate(texts))
    while True:
        word = _common_start([*rests.values()])
        cut = _NUMBER_END.sub("", word)  # the start of a number that differs belongs to what differs
        tried = cut if _continues_with_digits(rests.values(), word) else word
        numbers = {i: _NUMBER.match(rest, len(tried)) for i, rest in rests.items() if rest.startswith(tried)}
        found = {i: number for i, number in numbers.items() if number}
        after = {i: rests[i][number.end() :] for i, number in found.items()}
        if len(found) < max(2, _NEARLY_ALL * len(rests)) or not _common_start([*after.values()]):
            break
        pieces += [tried, Varying(tuple(n.group() for n in found.values()), tuple(owners[i] for i in found))]
        rests = after
    word = _whole_words(rests.values(), word)
    kept = {i: rest[len(word) :] for i, rest in rests.items() if rest.startswith(word)}
    return [*pieces, word], [kept.get(i, text) for i, text in enumerate(texts)]


_NUMBER_END = re.compile(r"\d[\d.:]*\Z")


def _continues_with_digits(texts: Iterable[str], word: str) -> bool:
    return any(re.match(r"[.:]?\d", text[len(word) :]) for text in texts if text.startswith(word))


def _common_start(texts: Sequence[str]) -> str:
    """The longest text that nearly all of `texts` begin with."""
    length, kept = 0, list(texts)
    while kept:
        letters = Counter(text[length] for text in kept if len(text) > length)
        letter, count = letters.most_common(1)[0] if letters else ("", 0)
        if count < max(1, _NEARLY_ALL * len(texts)):
            return kept[0][:length]
        kept = [text for text in kept if text[length : length + 1] == letter]
        length += 1
    return ""


def _whole_words(texts: Iterable[str], word: str) -> str:
    """`word`, cut so that it does not end in the middle of a word of what follows it."""
    following = {text[len(word) : len(word) + 1] for text in texts if text.startswith(word)}
    return re.sub(r"\w+\Z", "", word) if any(letter.isalnum() for letter in following) else word
