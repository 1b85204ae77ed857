"""The only place that knows the grammar: prompt, parser, renderer, and what goes back to the model.

    <think>…</think><video_zoom>{"segment": [start_seconds, end_seconds], "fps": n}</video_zoom>
    <think>…</think><answer>…</answer>

Reading is tolerant of what models really write (code fences, single quotes, trailing commas, "12s", "1:05"),
rendering is strict. The parser is only ever given text that the model sampled: a tag that comes from a question,
a subtitle or a tool turn is never executed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .config import PromptStyle
from .types import Answer, CallError, Malformed, VideoInfo, ZoomCall

CALL_OPEN, CALL_CLOSE = "<video_zoom>", "</video_zoom>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
TURN_ENDS = (CALL_CLOSE, ANSWER_CLOSE)  # generation stops behind these


# ---------------------------------------------------------------- what the model is shown


@dataclass(frozen=True)
class Text:
    """Text for the model. `trusted` text is ours and may hold control tokens; other text never becomes one."""

    text: str
    trusted: bool = True


@dataclass(frozen=True)
class Image:
    """The place of frame `index` of the glance or of the clip."""

    index: int


Part = Text | Image

_SYSTEM = (
    "You answer questions about a video. You first see a glance: a few frames of the whole video, each with its time. "
    "Brief events between them are missing. To look closer, zoom: end your turn with\n"
    '<think>why and where to look</think><video_zoom>{"segment": [start_seconds, end_seconds], '
    '"fps": frames_per_second}</video_zoom>\n'
    "and the frames of that segment come back, at most %(zoom_max_frames)d a call. You may zoom again, elsewhere if "
    "you looked in the wrong place. When you know, end your turn with\n"
    "<think>what you saw</think><answer>your answer</answer>"
)


def prompt(
    question: str, video: VideoInfo, times: Sequence[float], *, max_zooms: int, zoom_max_frames: int, style: PromptStyle
) -> list[Part]:
    """The opening of a conversation: system text, duration, labelled glance frames (one Image each), question."""
    if style == "brief":
        parts: list[Part] = [Text(f"<|im_start|>user\n{video.duration_seconds:.2f}s\n")]
    else:
        system = _SYSTEM % {"zoom_max_frames": zoom_max_frames}
        parts = [
            Text(f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"),
            Text(f"The video is {video.duration_seconds:.2f} seconds long. Glance at {len(times)} frames:\n"),
        ]
    parts += _labelled(times, style)
    parts += [Text(question, trusted=False), Text(f"\n{_left(max_zooms, style)}<|im_end|>\n{_REPLY}")]
    return parts


_REPLY = "<|im_start|>assistant\n"


def tool_turn(
    times: Sequence[float], note: str, *, zooms_left: int, style: PromptStyle, turn_is_open: bool = True
) -> list[Part]:
    """What comes back for a turn: `note` (`clip_note` or `feedback`), the labelled frames, and how to go on.

    turn_is_open: the model has not sampled its own end of turn, so one is put before the tool turn.
    """
    opening = ("<|im_end|>" if turn_is_open else "") + "\n<|im_start|>user\n<tool_response>"
    closing = f"</tool_response>\n{_left(zooms_left, style)}<|im_end|>\n{_REPLY}"
    return [Text(opening), Text(note, trusted=False), *_labelled(times, style), Text(closing)]


def clip_note(call: ZoomCall, end_seconds: float, num_frames: int, style: PromptStyle) -> str:
    """The line above the frames of a clip; says where the end was moved to the end of the video."""
    if style == "brief":
        return ""
    moved = f" The video ends at {end_seconds:.2f}s." if end_seconds < call.end_seconds else ""
    return f"\n{num_frames} frames from {call.start_seconds:.2f}s to {end_seconds:.2f}s:{moved}\n"


def feedback(problem: Malformed) -> str:
    """The text that goes back to the model for a turn that could not be carried out."""
    return f"\nError ({problem.error}): {_HELP[problem.error]} You wrote: {problem.detail}\n"


_HELP = {
    CallError.BAD_JSON: 'The text between the tags must be {"segment": [start_seconds, end_seconds], "fps": n}.',
    CallError.MISSING_KEY: "A call needs both segment and fps.",
    CallError.BAD_VALUE: "segment must be two numbers and fps one number.",
    CallError.NOT_FINITE: "segment and fps must be finite numbers.",
    CallError.NEGATIVE: "Times start at 0.",
    CallError.REVERSED: "The start must be before the end.",
    CallError.BEYOND_END: "The segment starts behind the end of the video.",
    CallError.ZERO_FRAMES: "The call asks for no frame: raise fps or lengthen the segment.",
    CallError.TOO_MANY_FRAMES: "The call asks for too many frames: shorten the segment or lower fps.",
    CallError.OVER_BUDGET: "The clip does not fit in what is left: ask for fewer frames or answer.",
    CallError.NO_ZOOMS_LEFT: "No zooms are left: answer now.",
    CallError.TWO_CALLS: "Make one call a turn.",
    CallError.CALL_AND_ANSWER: "A turn holds either a call or an answer, not both.",
    CallError.UNCLOSED: "A tag was opened and not closed.",
    CallError.EMPTY: "The turn held neither a call nor an answer.",
    CallError.UNREADABLE: "The video cannot be read there: look elsewhere.",
}


def _labelled(times: Sequence[float], style: PromptStyle) -> list[Part]:
    parts: list[Part] = []
    for i, t in enumerate(times):
        label = f"{t:.2f}s" if style == "brief" else f"{chr(10) if i else ''}Frame {i + 1} at {t:.2f}s: "
        parts += [Text(f"{label}<|vision_start|>"), Image(i), Text("<|vision_end|>")]
    return [*parts, Text("\n")] if parts else []


def _left(zooms_left: int, style: PromptStyle) -> str:
    if zooms_left == 0:
        return "Answer now." if style == "brief" else "No zooms are left. Think, then answer now."
    if style == "brief":
        return "Zoom or answer."
    return f"Think, then zoom (at most {zooms_left} more) or answer."


# ---------------------------------------------------------------- what the model writes


def render_call(call: ZoomCall) -> str:
    """The one strict spelling of a call."""
    s, e, f = (_number(x) for x in (call.start_seconds, call.end_seconds, call.fps))
    return f'{CALL_OPEN}{{"segment": [{s}, {e}], "fps": {f}}}{CALL_CLOSE}'


def render_answer(text: str) -> str:
    return f"{ANSWER_OPEN}{text}{ANSWER_CLOSE}"


def render_turn(thought: str, outcome: ZoomCall | Answer) -> str:
    """A whole assistant turn in strict form, without its end-of-turn token."""
    tail = render_call(outcome) if isinstance(outcome, ZoomCall) else render_answer(outcome.text)
    return f"<think>{thought}</think>{tail}"


def _number(x: float) -> str:
    return str(int(x)) if x == int(x) else f"{x:.2f}".rstrip("0")


def parse_turn(text: str) -> ZoomCall | Answer | Malformed:
    """Read one turn of the model. Nothing that a model can write raises."""
    acting = text.rsplit(THINK_CLOSE, 1)[-1]  # tags in a closed thought are talk, not action
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


def foresee_call(text: str, max_frames: int) -> ZoomCall | None:
    """The call that an unfinished turn seems to be writing, once its segment is readable; None before.

    Until its fps is readable, too, it is taken to fill `max_frames`. A guess for decoding early: `parse_turn` decides.
    """
    acting = text.rsplit(THINK_CLOSE, 1)[-1]
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
    """The text behind the last `opening`, up to the next `closing`, and whether there was one."""
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
