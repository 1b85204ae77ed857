"""How the frames of a conversation are labelled: the pattern of the text before each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...protocol import Frames, escape_template
from .chats import IMAGE, Chat
from .common import most_common, nearly_all, split_numbers

_SHARE = r"(\d+:\d\d:\d\d|\d+:\d\d|\d+\.\d+|\d+)"  # a number of a label


@dataclass(frozen=True)
class _Block:
    """The frames of one message: the numbers of each label, and how many frames the conversation showed before."""

    numbers: tuple[tuple[str, ...], ...]
    shown_before: int
    is_clip: bool


def learn_frames(chats: Sequence[Chat], unsure: list[str]) -> Frames:
    """The label and the separator that the frames of nearly all messages have.

    Args:
        chats: the conversations.
        unsure: what cannot be told is added to it.

    Raises:
        ValueError: no message shows two frames, so that nothing tells a label from the text before it.
    """
    gaps = [gap for chat in chats for text in chat.shown for gap in text.split(IMAGE)[1:-1]]
    if not gaps:
        raise ValueError("no message shows two frames: their label cannot be told from the text before it")
    words = most_common(split_numbers(gap)[0] for gap in gaps)
    body = "".join(_SHARE + re.escape(word) for word in words[1:])
    last = re.compile(body + r"\Z")
    gap = re.compile(re.escape(words[0]) + body)

    blocks: list[_Block] = []
    own: list[int] = []  # characters of words[0] that stand before the first frame of a message too
    for chat in chats:
        shown = 0
        for number, text in enumerate(chat.shown):
            head, *between = text.split(IMAGE)
            first, others = last.search(head), [gap.fullmatch(one) for one in between[:-1]]
            if between and first and all(others):
                own.append(_common_end(head[: first.start()], words[0]))
                numbers = (first.groups(), *(one.groups() for one in others if one))
                blocks.append(_Block(numbers, shown, number > 0))
            shown += len(between)
    if not blocks:
        raise ValueError("the first frame of a message is labelled in another way than the others")
    kept = max(n for n in {0, *own} if nearly_all(length >= n for length in own))
    prefix = words[0][len(words[0]) - kept :]

    label = escape_template(prefix)
    first_index, restarts = 0, True
    for place, word in enumerate(words[1:]):
        near = (words[place] if place else prefix, word)
        field, counted = _field(place, blocks, near, unsure)
        label += field + escape_template(word)
        if counted:
            first_index, restarts = counted
    return Frames(label, words[0][: len(words[0]) - kept], first_index, "clip" if restarts else "never")


def _common_end(text: str, other: str) -> int:
    """How many characters both end with."""
    length = 0
    while length < min(len(text), len(other)) and text[-1 - length] == other[-1 - length]:
        length += 1
    return length


def _field(
    place: int, blocks: Sequence[_Block], near: tuple[str, str], unsure: list[str]
) -> tuple[str, tuple[int, bool] | None]:
    """What stands in one place of the label, as a template; and (first index, restarts in clips) if it counts."""
    rows = [[numbers[place] for numbers in block.numbers] for block in blocks]
    tokens = [token for row in rows for token in row]
    if nearly_all(token.count(":") == 2 for token in tokens):
        return "{clock}", None
    if nearly_all(token.count(":") == 1 for token in tokens):
        return "{short_clock}", None
    if nearly_all("." in token for token in tokens):
        digits = most_common(len(token.partition(".")[2]) for token in tokens)
        return f"{{time:.{digits}f}}", None
    if any("." in token for token in tokens):
        return "{time:g}", None
    if len(set(tokens)) == 1:
        return escape_template(tokens[0]), None
    width = most_common(map(len, tokens)) if any(t[0] == "0" and len(t) > 1 for t in tokens) else 0
    spec = f":0{width}d" if width else ""
    if nearly_all(all(int(b) == int(a) + 1 for a, b in itertools.pairwise(row)) for row in rows):
        starts = [int(row[0]) for row in rows]
        first = most_common(starts)
        is_second = near[1].startswith("s") and not any(block.is_clip for block in blocks)
        if nearly_all(start == first for start in starts) and not is_second:
            if not any(block.is_clip for block in blocks):
                unsure.append("whether the index of a frame begins anew in a clip: no clip is in the data")
            return f"{{index{spec}}}", (first, True)
        first = most_common(start for start, block in zip(starts, blocks, strict=True) if not block.is_clip)
        if nearly_all(start == first + block.shown_before for start, block in zip(starts, blocks, strict=True)):
            return f"{{index{spec}}}", (first, False)
    if near[1].lstrip().startswith("s"):
        return f"{{time:{f'0{width}' if width else ''}.0f}}", None
    if "frame" not in near[0].lower():
        unsure.append(
            "whether a whole number in the label is a frame's number in the file or its second: took the first"
        )
    return f"{{frame{spec}}}", None
