"""JSON as models write it: in code fences, with single quotes, with words around it; whole, or as far as it goes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from .base import Said
from .numbers import number

_FENCE = re.compile(r"^\s*```(?:json)?|```\s*$")
_TRAILING_COMMA = re.compile(r",\s*([}\]])")
_DECODER = json.JSONDecoder()


def first_object(body: str) -> dict[str, Any] | None:
    """The first JSON object of a text, as it is or once quotes, parentheses and trailing commas are mended; or None."""
    body = _FENCE.sub("", body).strip()
    mended = _TRAILING_COMMA.sub(r"\1", body.replace("'", '"').replace("(", "[").replace(")", "]"))
    for text in (body, mended):
        begin = text.find("{")
        if begin < 0:
            return None
        try:
            found, _ = _DECODER.raw_decode(text, begin)
        except (ValueError, RecursionError):
            continue
        return found if isinstance(found, dict) else None
    return None


def objects(body: str) -> list[str]:
    """The texts of the JSON objects of a text, if nothing else but white space is in it; else the text itself."""
    found: list[str] = []
    done = 0
    while rest := body[done:].lstrip():
        begin = len(body) - len(rest)
        try:
            _, done = _DECODER.raw_decode(body, begin)
        except (ValueError, RecursionError):
            return [body]
        found.append(body[begin:done])
    return found or [body]


# All repetitions are bounded: the text may be anything, and is looked at for every sampled token.
_BLANK = r"\s{0,16}"
_TIME = r"[\d:.]{1,24}"
_UNIT = r"(?:\s{0,2}s(?:ec(?:onds)?)?)?"


@lru_cache(maxsize=256)
def _pair_after(key: str) -> re.Pattern[str]:
    one = rf"""["']?{_BLANK}({_TIME}){_UNIT}{_BLANK}["']?"""
    return re.compile(
        rf"""{re.escape(key)}["']?{_BLANK}:{_BLANK}[\[(]{_BLANK}{one}{_BLANK},{_BLANK}{one}{_BLANK}[\])]"""
    )


@lru_cache(maxsize=256)
def _value_after(key: str) -> re.Pattern[str]:
    # A digit may still follow until something else does.
    return re.compile(rf"""{re.escape(key)}["']?{_BLANK}[:=]{_BLANK}["']?({_TIME})(?=[^\d:.])""")


def said_so_far(body: str, names: Mapping[str, str]) -> Said | None:
    """What the arguments of an unfinished object say, if start and end are certain.

    Args:
        body: the text so far.
        names: the model's name for each of vzoom's.
    """
    found: dict[str, float | None] = {}
    for ours, theirs in names.items():
        if ours == "segment":
            if pair := _pair_after(theirs).search(body):
                found |= {"start": number(pair[1]), "end": number(pair[2])}
        elif value := _value_after(theirs).search(body):
            found[ours] = number(value[1])
    if found.get("start") is None or found.get("end") is None:
        return None
    return Said(found["start"], found["end"], found.get("fps"), found.get("num_frames"))
