"""What the model wrote: one turn of it -> a zoom call, an answer, or what is wrong with it.

Reading is tolerant of what models really write (code fences, single quotes, trailing commas, "12s", "1:05"). The
parser is only ever given text that the model sampled: a tag that comes from a question, a subtitle or a tool turn is
never executed.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from ..types import Answer, CallError, Malformed, ZoomCall
from .tags import ANSWER_CLOSE, ANSWER_OPEN, CALL_CLOSE, CALL_OPEN, TAGS, THINK_CLOSE, THINK_OPEN, TURN_ENDS


def parse_turn(text: str) -> ZoomCall | Answer | Malformed:
    """Read one turn of the model.

    Args:
        text: what the model sampled, from the start of its turn.

    Returns:
        The call, the answer, or what is wrong. A call or an answer in a thought that is never closed is UNCLOSED.
        Nothing that a model can write raises.
    """
    acting, thinks = acting_text(text)
    if thinks:
        rest = text.rsplit(THINK_CLOSE, 1)[-1]
        error = CallError.UNCLOSED if CALL_OPEN in rest or ANSWER_OPEN in rest else CallError.EMPTY
        return Malformed(error, _excerpt(rest))
    calls, answers = acting.count(CALL_OPEN), acting.count(ANSWER_OPEN)
    if calls and answers:
        return Malformed(CallError.CALL_AND_ANSWER, _excerpt(acting))
    if calls > 1:
        return Malformed(CallError.TWO_CALLS, _excerpt(acting))
    if calls:
        body, closed = _between(acting, CALL_OPEN, CALL_CLOSE)
        call = _parse_call(body)
        # A call whose closing tag is missing is carried out when its body is whole: the intent is plain.
        return Malformed(CallError.UNCLOSED, _excerpt(acting)) if not closed and isinstance(call, Malformed) else call
    if answers:
        body, _ = _between(acting, ANSWER_OPEN, ANSWER_CLOSE)
        return Answer(body.strip()) if body.strip() else Malformed(CallError.EMPTY, _excerpt(acting))
    return Malformed(CallError.EMPTY, _excerpt(acting))


def acting_text(text: str) -> tuple[str, bool]:
    """The part of a turn in which tags act: what follows its last closed thought. Tags in a thought are talk.

    Args:
        text: a turn, or as much of it as is written.

    Returns:
        The text, and whether an open thought follows it. (`<think>` in a call or an answer opens none.)
    """
    rest = text.rsplit(THINK_CLOSE, 1)[-1]
    thought = rest.find(THINK_OPEN)
    if thought < 0 or any(rest.find(tag, 0, thought) >= 0 for tag in (CALL_OPEN, ANSWER_OPEN)):
        return rest, False
    return rest[:thought], True


def cut_turn(text: str) -> str | None:
    """The text up to the closing tag that ends the turn: the first outside thoughts. None if there is none.

    Args:
        text: a turn, or as much of it as is written.
    """
    in_thought = in_action = False
    for found in _TAG.finditer(text):
        tag = found.group()
        if tag == THINK_CLOSE:
            in_thought = in_action = False
        elif tag == THINK_OPEN:
            in_thought = not in_action
        elif not in_thought:
            if tag in TURN_ENDS:
                return text[: found.end()]
            in_action = True
    return None


def untagged_answer(text: str) -> str | None:
    """What a turn without a call or an answer tag says outside its thought, without surrounding white space.

    Args:
        text: a turn that its writer ended.

    Returns:
        The text; None if there is none, if a thought is open, or if there are tags.
    """
    acting, thinks = acting_text(text)
    said = acting.strip()
    return said if said and not thinks and not _TAG.search(said) else None


_TAG = re.compile("|".join(map(re.escape, TAGS)))


def partial_call(text: str, max_frames: int) -> ZoomCall | None:
    """The call that an unfinished turn seems to be writing: a guess for decoding early. `parse_turn` decides.

    Args:
        text: what the model sampled so far.
        max_frames: the call is taken to fill so many frames until its fps is readable.

    Returns:
        The call, or None until its segment is readable.
    """
    acting, _ = acting_text(text)
    if CALL_OPEN not in acting:
        return None
    body = _between(acting, CALL_OPEN, CALL_CLOSE)[0]
    segment = _SEGMENT.search(body)
    start, end = map(_seconds, segment.groups()) if segment else (None, None)
    if start is None or end is None or not 0 <= start < end < math.inf:
        return None
    written = _FPS.search(body)
    fps = _seconds(written.group(1)) if written else None
    return ZoomCall(start, end, fps if fps and fps < math.inf else max_frames / (end - start))


_SEGMENT = re.compile(r"""segment["']?\s*:\s*[\[(]\s*["']?([^"',\])]+)["']?\s*,\s*["']?([^"',\])]+)["']?\s*[\])]""")
_FPS = re.compile(r"""fps["']?\s*:\s*["']?([\d.]+)(?=[^\d.])""")  # a digit may still follow until something else does


def _between(text: str, opening: str, closing: str) -> tuple[str, bool]:
    """The text after the last `opening`, up to the next `closing`, and whether there was one."""
    body, closed, _ = text.rpartition(opening)[2].partition(closing)
    return body, bool(closed)


def _excerpt(text: str, limit: int = 120) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _parse_call(body: str) -> ZoomCall | Malformed:
    data = _loads(body)
    if not isinstance(data, dict):
        return Malformed(CallError.BAD_JSON, _excerpt(body))
    if "segment" not in data or "fps" not in data:
        return Malformed(CallError.MISSING_KEY, _excerpt(body))
    segment = data["segment"]
    if not isinstance(segment, list) or len(segment) != 2:
        return Malformed(CallError.BAD_VALUE, _excerpt(body))
    values = [_seconds(x) for x in (*segment, data["fps"])]
    if any(v is None for v in values):
        return Malformed(CallError.BAD_VALUE, _excerpt(body))
    start, end, fps = (float(v) for v in values if v is not None)
    if not all(map(math.isfinite, (start, end, fps))):
        return Malformed(CallError.NOT_FINITE, _excerpt(body))
    if start < 0 or end < 0 or fps < 0:
        return Malformed(CallError.NEGATIVE, _excerpt(body))
    if start >= end:
        return Malformed(CallError.REVERSED, _excerpt(body))
    if fps == 0:
        return Malformed(CallError.ZERO_FRAMES, _excerpt(body))
    return ZoomCall(start, end, fps)


def _loads(body: str) -> Any:
    """JSON, or what is JSON once a code fence, single quotes, parentheses and trailing commas are mended."""
    body = re.sub(r"^\s*```(?:json)?|```\s*$", "", body).strip()
    for text in (body, re.sub(r",\s*([}\]])", r"\1", body.replace("'", '"').replace("(", "[").replace(")", "]"))):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            continue
    return None


_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
_PLAIN = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+|nan|inf(?:inity)?))\s*(?:s|sec|seconds|fps)?", re.IGNORECASE)


def _seconds(value: Any) -> float | None:
    """A number, "12.5", "12.5s", "1:05" or "1:02:03.5" -> float, or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    if not isinstance(value, str):
        return None
    if clock := _CLOCK.fullmatch(value.strip()):
        hours, minutes, seconds = clock.groups(default="0")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    plain = _PLAIN.fullmatch(value.strip())
    return float(plain.group(1)) if plain else None
