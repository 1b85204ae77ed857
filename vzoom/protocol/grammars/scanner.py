"""Where the tags of a turn act: outside thoughts. Reads a turn as it is written, each character once."""

from __future__ import annotations

import re
from functools import lru_cache

from ..definition import Protocol
from . import boxed


@lru_cache(maxsize=64)
def _tags(protocol: Protocol) -> tuple[re.Pattern[str], int]:
    """Finds the texts that open or close a thought or an action, or end a turn, the longest of several; and the length
    of the longest."""
    found = {*opening_tags(protocol), protocol.thought.open, protocol.thought.close, *stops(protocol)}
    if protocol.call.close != boxed.CLOSE:
        found.add(protocol.call.close)
    tags = sorted(found - {""}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, tags))), len(tags[0])


@lru_cache(maxsize=64)
def opening_tags(protocol: Protocol) -> tuple[str, ...]:
    """What opens a call or an answer."""
    found = [protocol.call.open]
    if protocol.answer.form in ("tag", "tag_boxed"):
        found.append(protocol.answer.open)
    elif protocol.answer.form == "boxed":
        found.append(boxed.OPEN)
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=64)
def stops(protocol: Protocol) -> tuple[str, ...]:
    """The texts after which generation stops, outside thoughts."""
    call, answer = protocol.call, protocol.answer
    if call.stop is not None:
        return call.stop
    found = [call.close] if call.per_turn == 1 and call.grammar != "boxed" else []
    return (*found, answer.close) if answer.form in ("tag", "tag_boxed") else tuple(found)


class TurnScanner:
    """Follows one turn as its text comes.

    Attributes:
        end: the length of the turn up to the text that ended it; None while nothing has.
        call_start: where the text of the call begins that is being written; None outside a call.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.end: int | None = None
        self.call_start: int | None = None
        self._protocol = protocol
        self._tag, self._longest = _tags(protocol)
        self._openings, self._stops = frozenset(opening_tags(protocol)), frozenset(stops(protocol))
        self._done = 0  # what is before was looked at, and holds no tag that is not known
        self._in_thought = self._in_action = False

    def fork(self) -> TurnScanner:
        """A second scanner that has seen the same text."""
        other = TurnScanner(self._protocol)
        other.end, other.call_start, other._done = self.end, self.call_start, self._done
        other._in_thought, other._in_action = self._in_thought, self._in_action
        return other

    def read(self, text: str) -> int | None:
        """Look at what is new in `text`, the whole turn so far. Returns `end`."""
        thought, call = self._protocol.thought, self._protocol.call
        while self.end is None and (found := self._tag.search(text, self._done)):
            tag = found.group()
            self._done = found.end()
            if tag == thought.close:
                self._in_thought = self._in_action = False
                self.call_start = None
            elif tag == thought.open:
                self._in_thought = self._in_thought or not self._in_action
            elif not self._in_thought:
                self.call_start = found.end() if tag == call.open else None
                self._in_action = tag in self._openings
                if tag in self._stops:
                    self.end = found.end()
        self._done = max(self._done, len(text) - self._longest + 1)
        return self.end


def cut_turn(text: str, protocol: Protocol) -> str | None:
    """The text up to what ends the turn: the first closing tag outside thoughts. None if there is none.

    Args:
        text: a turn, or as much of it as is written.
        protocol: the protocol that it is written in.
    """
    end = TurnScanner(protocol).read(text)
    return None if end is None else text[:end]
