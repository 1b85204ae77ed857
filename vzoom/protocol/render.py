"""What the model is shown: the prompt, the tool turns, and the one strict spelling of a turn.

Rendering is strict; reading (`parse`) is tolerant of what models really write. The wording is part of what checkpoints
have learned: a change of it changes what they answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..config import Encoding, PromptStyle
from ..types import Answer, CallError, Malformed, VideoInfo, ZoomCall
from .tags import ANSWER_CLOSE, ANSWER_OPEN, CALL_CLOSE, CALL_OPEN, THINK_CLOSE, THINK_OPEN, TOOL_CLOSE, TOOL_OPEN
from .well_formed import strict_action


@dataclass(frozen=True)
class TextPart:
    """Text for the model. `trusted` text is ours and may hold control tokens; other text never becomes one."""

    text: str
    trusted: bool = True


@dataclass(frozen=True)
class ImagePart:
    """The place of frame `index` of the glance or of the clip."""

    index: int


@dataclass(frozen=True)
class VideoPart:
    """The place of frames that are shown as video tokens; how those are written is up to the model's family.

    Attributes:
        first: index of the first frame in the glance or the clip.
        times: seconds of these frames, in order.
        seconds_per_frame: how far the times were meant to be apart; those of a file are off by up to a frame.
    """

    first: int
    times: tuple[float, ...]
    seconds_per_frame: float


Part = TextPart | ImagePart | VideoPart

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
    question: str,
    video: VideoInfo,
    times: Sequence[float],
    *,
    max_zooms: int,
    zoom_max_frames: int,
    style: PromptStyle,
    encoding: Encoding = "image",
    seconds_per_frame: float = 0.0,
) -> list[Part]:
    """The opening of a conversation: system text, duration, labelled glance frames, question.

    Args:
        question: text from outside; it never becomes a control token.
        video: its duration is told.
        times: seconds of the glance frames.
        max_zooms: how many calls the model may make.
        zoom_max_frames: the most frames that one call may ask for.
        style: "full" explains the grammar, "brief" is for models that were trained on it.
        encoding: "image" labels each frame with its time; "video" has one `VideoPart` for all.
        seconds_per_frame: how far the times were meant to be apart; for videos.

    Returns:
        The parts in order, with one `ImagePart` per glance frame, or a `VideoPart`.
    """
    if style == "brief":
        parts: list[Part] = [TextPart(f"<|im_start|>user\n{video.duration_seconds:.2f}s\n")]
    else:
        system = _SYSTEM % {"zoom_max_frames": zoom_max_frames}
        parts = [
            TextPart(f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"),
            TextPart(f"The video is {video.duration_seconds:.2f} seconds long. Glance at {len(times)} frames:\n"),
        ]
    parts += _frames(times, style, encoding, seconds_per_frame)
    parts += [TextPart(question, trusted=False), TextPart(f"\n{_left(max_zooms, style)}<|im_end|>\n{_REPLY}")]
    return parts


_REPLY = "<|im_start|>assistant\n"


def tool_turn(
    times: Sequence[float],
    note: str,
    *,
    zooms_left: int,
    style: PromptStyle,
    turn_is_open: bool = True,
    encoding: Encoding = "image",
    seconds_per_frame: float = 0.0,
) -> list[Part]:
    """What comes back for a turn: a note, the labelled frames, and how to continue.

    Args:
        times: seconds of the frames of the clip; none after a turn that brought no clip.
        note: a `clip_note` or a `feedback`.
        zooms_left: how many calls the model may still make.
        style: as for `prompt`.
        turn_is_open: the model has not sampled its own end of turn, so one is put before the tool turn.
        encoding: as for `prompt`.
        seconds_per_frame: as for `prompt`.

    Returns:
        The parts in order, with one `ImagePart` per frame, or a `VideoPart`.
    """
    opening = ("<|im_end|>" if turn_is_open else "") + f"\n<|im_start|>user\n{TOOL_OPEN}"
    closing = f"{TOOL_CLOSE}\n{_left(zooms_left, style)}<|im_end|>\n{_REPLY}"
    frames = _frames(times, style, encoding, seconds_per_frame)
    return [TextPart(opening), TextPart(note, trusted=False), *frames, TextPart(closing)]


def clip_note(call: ZoomCall, end_seconds: float, num_frames: int, style: PromptStyle) -> str:
    """The line above the frames of a clip; it says so if the end was moved to the end of the video."""
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


def _frames(times: Sequence[float], style: PromptStyle, encoding: Encoding, seconds_per_frame: float) -> list[Part]:
    if encoding == "video" and times:
        return [VideoPart(0, tuple(times), seconds_per_frame), TextPart("\n")]
    parts: list[Part] = []
    for i, t in enumerate(times):
        label = f"{t:.2f}s" if style == "brief" else f"{chr(10) if i else ''}Frame {i + 1} at {t:.2f}s: "
        parts += [TextPart(f"{label}<|vision_start|>"), ImagePart(i), TextPart("<|vision_end|>")]
    return [*parts, TextPart("\n")] if parts else []


def _left(zooms_left: int, style: PromptStyle) -> str:
    if zooms_left == 0:
        return "Answer now." if style == "brief" else "No zooms are left. Think, then answer now."
    if style == "brief":
        return "Zoom or answer."
    return f"Think, then zoom (at most {zooms_left} more) or answer."


def render_call(call: ZoomCall) -> str:
    """The one strict spelling of a call."""
    s, e, f = (_number(x) for x in (call.start_seconds, call.end_seconds, call.fps))
    return f'{CALL_OPEN}{{"segment": [{s}, {e}], "fps": {f}}}{CALL_CLOSE}'


def render_answer(text: str) -> str:
    """The one strict spelling of an answer."""
    return f"{ANSWER_OPEN}{text}{ANSWER_CLOSE}"


def render_turn(thought: str, outcome: ZoomCall | Answer) -> str:
    """A whole turn of the model in strict form, without its end-of-turn token.

    Args:
        thought: may mention tags, except the one that closes a thought.
        outcome: a call, whose times and rate are rounded to hundredths; or an answer.

    Returns:
        A turn of which `strict_action` gives the outcome back.

    Raises:
        ValueError: no well-formed turn can say that. Examples: a call of less than a hundredth of a second, an empty
            answer, an answer with tags in it.
    """
    tail = render_call(outcome) if isinstance(outcome, ZoomCall) else render_answer(outcome.text)
    turn = f"{THINK_OPEN}{thought}{THINK_CLOSE}{tail}"
    if not isinstance(strict_action(turn), type(outcome)):
        raise ValueError(f"this turn is not well formed: {turn!r}")
    return turn


def _number(x: float) -> str:
    if not math.isfinite(x):
        raise ValueError(f"a call cannot ask for {x!r}")
    return str(int(x)) if x == int(x) else f"{x:.2f}".rstrip("0")
