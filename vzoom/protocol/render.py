"""What the model is shown: the prompt, the tool turns, and the one strict spelling of a turn.

Rendering is strict; reading (`parse`) is tolerant of what models really write. All words are the protocol's: a change
of them changes what checkpoints answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..types import Answer, CallError, Malformed, VideoInfo, ZoomCall, ZoomCalls, calls_of
from . import template
from .definition import Protocol, ViewSettings
from .frame_times import clamped_end
from .grammars import boxed
from .grammars.action import asked
from .grammars.base import Said
from .grammars.numbers import clock
from .parse import GRAMMARS
from .well_formed import strict_action


@dataclass(frozen=True)
class TextPart:
    """Text for the model. `trusted` text is ours and may hold control tokens; other text never becomes one."""

    text: str
    trusted: bool = True


@dataclass(frozen=True)
class ImagePart:
    """The place of frame `index` of the glance or of the clips of one turn."""

    index: int


@dataclass(frozen=True)
class VideoPart:
    """The place of frames that are shown as video tokens; how those are written is up to the model's family.

    Attributes:
        first: index of the first frame in the glance or the clips of one turn.
        times: seconds of these frames, in order.
        seconds_per_frame: how far they were meant to be apart, if that is known: the times of a file are off by up to
            a frame. Else it is taken from the times.
    """

    first: int
    times: tuple[float, ...]
    seconds_per_frame: float | None = None

    @property
    def spacing(self) -> float:
        """Seconds from one frame to the next; 0 if there is one alone."""
        if self.seconds_per_frame is not None or len(self.times) == 1:
            return self.seconds_per_frame or 0.0
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)


Part = TextPart | ImagePart | VideoPart
Value = str | int | float | list[Part]

END_OF_TURN = "<|im_end|>"
_REPLY = f"{END_OF_TURN}\n<|im_start|>assistant\n"


def prompt(question: str, video: VideoInfo, times: Sequence[float], config: ViewSettings) -> list[Part]:
    """The opening of a conversation: the system message, and the first message of the user.

    Args:
        question: text from outside; it never becomes a control token.
        video: its duration may be told.
        times: seconds of the glance frames.
        config: its protocol has the words, its limits may be told.

    Returns:
        The parts in order, with one `ImagePart` per glance frame, or a `VideoPart`.
    """
    protocol = config.protocol
    values = _always(video, question, config, config.max_zooms)
    system = _filled(protocol, protocol.turns.system, values)
    values |= {
        "num_frames": len(times),
        "frames": frame_parts(times, video, protocol),
    }
    opening: list[Part] = [TextPart("<|im_start|>system\n"), *system, TextPart(f"{END_OF_TURN}\n")] if system else []
    opening += [TextPart("<|im_start|>user\n"), *_filled(protocol, protocol.turns.opening, values), TextPart(_REPLY)]
    return _joined(opening)


def tool_turn(
    clips: Sequence[tuple[ZoomCall, Sequence[float]]],
    video: VideoInfo,
    config: ViewSettings,
    *,
    question: str,
    zooms_left: int,
    num_shown: int = 0,
    turn_is_open: bool = True,
) -> list[Part]:
    """What comes back for the calls of a turn.

    Args:
        clips: each call with the seconds of the frames that it brought.
        video: the end of a call is not after its end.
        config: its protocol has the words, its limits may be told.
        question: may be told again.
        zooms_left: how many calls the model may still make.
        num_shown: frames that were shown before, for labels that count on.
        turn_is_open: the model has not sampled its own end of turn, so one is put before the tool turn.

    Returns:
        The parts in order, with one `ImagePart` per frame or one `VideoPart` per clip; the frames of the second clip
        follow those of the first.
    """
    protocol, turns = config.protocol, config.protocol.turns
    always = _always(video, question, config, zooms_left)
    rendered: list[Part] = []
    values: dict[str, Value] = {}
    done = 0
    for call, times in clips:
        values = {**always, **_of_clip(call, times, video, protocol, done, num_shown)}
        rendered += [TextPart(protocol.text(turns.clip_separator))] if done else []
        rendered += _filled(protocol, turns.clip, values)
        done += len(times)
    last = turns.last_tool if zooms_left == 0 and turns.last_tool is not None else turns.tool
    body = _filled(protocol, last, {**always, **values, "clips": rendered})
    return _as_turn(body, protocol, turn_is_open)


def error_turn(
    problem: Malformed,
    video: VideoInfo,
    config: ViewSettings,
    *,
    question: str,
    zooms_left: int,
    turn_is_open: bool = True,
) -> list[Part]:
    """What comes back for a turn that could not be carried out.

    Args:
        problem: what is wrong with it. If it asked for the number of a frame, it is told that.
        video: its duration may be told.
        config: its protocol has the words, its limits may be told.
        question: may be told again.
        zooms_left: how many calls the model may still make.
        turn_is_open: as for `tool_turn`.
    """
    return _as_turn(_error_parts(problem, video, question, config, zooms_left), config.protocol, turn_is_open)


def feedback(problem: Malformed, video: VideoInfo, config: ViewSettings, *, question: str, zooms_left: int) -> str:
    """The text of `error_turn`, without control tokens."""
    parts = _error_parts(problem, video, question, config, zooms_left)
    return "".join(part.text for part in parts if isinstance(part, TextPart))


def frame_parts(
    times: Sequence[float], video: VideoInfo, protocol: Protocol, *, first_image: int = 0, num_shown: int = 0
) -> list[Part]:
    """Labelled frames; or, if the protocol shows them as video tokens, one `VideoPart` without labels.

    Args:
        times: their seconds.
        video: its rate gives their numbers in the file.
        protocol: has the label.
        first_image: ImagePart.index of the first frame.
        num_shown: frames that were shown before, if the labels count on.
    """
    if protocol.frame.encoding == "video":
        return [VideoPart(first_image, tuple(times))] if times else []
    frame, parts = protocol.frame, list[Part]()
    label = protocol.text(frame.label)
    for i, seconds in enumerate(times):
        index = frame.first_index + i + num_shown
        text = template.fill_template(
            label,
            {
                "index": index,
                "number": index + 1,
                "time": seconds,
                "clock": clock(seconds),
                "short_clock": clock(seconds, hours=False),
                "frame": round(seconds * video.fps),
            },
        )
        before = frame.separator if i else ""
        parts += [TextPart(f"{before}{text}<|vision_start|>"), ImagePart(first_image + i), TextPart("<|vision_end|>")]
    return parts


_HELP = {
    CallError.BAD_JSON: "The call cannot be read: write it exactly as you were told.",
    CallError.MISSING_KEY: "The call does not say all that it must.",
    CallError.BAD_VALUE: "A value of the call is of the wrong kind.",
    CallError.NOT_FINITE: "The values of a call must be finite numbers.",
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
    CallError.FRAME_ASKED: "The number of a frame was asked.",
    CallError.UNREADABLE: "The video cannot be read there: look elsewhere.",
}


def _always(video: VideoInfo, question: str, config: ViewSettings, zooms_left: int) -> dict[str, Value]:
    """The values that every turn may tell."""
    turns = config.protocol.turns
    values: dict[str, Value] = {
        "duration": video.duration_seconds,
        "clock_duration": clock(video.duration_seconds),
        "short_duration": clock(video.duration_seconds, hours=False),
        "video_fps": video.fps,
        "video_path": video.path,
        "question": question,
        "zooms_left": zooms_left,
        "max_zooms": config.max_zooms,
        "zoom_max_frames": config.zoom_max_frames,
    }
    budget = turns.last_budget if zooms_left == 0 else turns.budget
    return {**values, "budget": _filled(config.protocol, budget, values)}


def _of_clip(
    call: ZoomCall, times: Sequence[float], video: VideoInfo, protocol: Protocol, first_image: int, num_shown: int
) -> dict[str, Value]:
    """The values that a clip may tell."""
    end = clamped_end(call, video)
    values: dict[str, Value] = {
        "start": call.start_seconds,
        "end": end,
        "clock_start": clock(call.start_seconds),
        "clock_end": clock(end),
        "num_frames": len(times),
    }
    note = protocol.turns.end_note if end < call.end_seconds else ""
    if video.max_fps is not None and len(times) + 1 <= (end - call.start_seconds) * call.fps + 1e-6:
        note += protocol.turns.fewer_note
    before = {"clip": 0, "turn": first_image, "never": num_shown + first_image}[protocol.frame.index_restarts]
    return {
        **values,
        "note": _filled(protocol, note, values),
        "frames": frame_parts(times, video, protocol, first_image=first_image, num_shown=before),
    }


def _error_parts(
    problem: Malformed, video: VideoInfo, question: str, config: ViewSettings, zooms_left: int
) -> list[Part]:
    protocol, turns = config.protocol, config.protocol.turns
    always = _always(video, question, config, zooms_left)
    question_of_time = asked(problem.detail, protocol.call) if problem.error is CallError.FRAME_ASKED else None
    if question_of_time and question_of_time.seconds is not None:
        frame = int(min(question_of_time.seconds * video.fps, 1e15))
        return _filled(protocol, turns.frame_number, {**always, "time": question_of_time.time, "frame": frame})
    last = turns.last_error if zooms_left == 0 and turns.last_error is not None else turns.error
    told: dict[str, Value] = {
        "error": [TextPart(str(problem.error))],
        "help": [TextPart(protocol.errors.get(problem.error, _HELP[problem.error]))],
        "detail": problem.detail,
    }
    return _filled(protocol, last, {**always, **told})


def _as_turn(body: list[Part], protocol: Protocol, turn_is_open: bool) -> list[Part]:
    turns = protocol.turns
    before = turns.after_stop if turn_is_open else turns.after_stop.removeprefix(END_OF_TURN)
    return _joined([TextPart(f"{before}<|im_start|>{turns.tool_role}\n"), *body, TextPart(_REPLY)])


def _filled(protocol: Protocol, text: str, values: Mapping[str, Value]) -> list[Part]:
    """A template with its values. Text in a value is not ours: it never becomes a control token."""
    parts: list[Part] = []
    for piece in template.split_template(protocol.text(text)):
        if isinstance(piece, str):
            parts.append(TextPart(piece))
        elif isinstance(value := values[piece.name], list):
            parts += value
        else:
            parts.append(TextPart(format(value, piece.spec), trusted=not isinstance(value, str)))
    return parts


def _joined(parts: Sequence[Part]) -> list[Part]:
    """The parts, with texts of one kind that follow each other as one."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, TextPart) and isinstance(last, TextPart) and part.trusted == last.trusted:
            found[-1] = TextPart(last.text + part.text, part.trusted)
        elif not isinstance(part, TextPart) or part.text:
            found.append(part)
    return found


def render_call(call: ZoomCall, protocol: Protocol, *, video_fps: float = 1.0) -> str:
    """The one strict spelling of a call.

    Args:
        call: its times and rate are rounded to hundredths.
        protocol: the protocol to write it in.
        video_fps: frames per second of the video, for calls that name frames by their numbers.

    Raises:
        ValueError: a number is not finite.
    """
    form = protocol.call
    start, end = call.start_seconds, call.end_seconds
    if form.unit == "frames":
        start, end = float(round(start * video_fps)), float(round(end * video_fps))
    num_frames = None if call.num_frames is None else float(call.num_frames)
    body = GRAMMARS[form.grammar].write(Said(start, end, call.fps, num_frames), form)
    return f"{form.open}{form.padding}{body}{form.padding}{form.close}"


def render_answer(text: str, protocol: Protocol) -> str:
    """The one strict spelling of an answer."""
    call, answer = protocol.call, protocol.answer
    box = f"{boxed.OPEN}{text}{boxed.CLOSE}"
    match answer.form:
        case "tag":
            return f"{answer.open}{text}{answer.close}"
        case "tag_boxed":
            return f"{answer.open}{box}{answer.close}"
        case "boxed":
            return box
        case "action":
            return f"{call.open}{call.padding}{answer.open} {text}{answer.close}{call.padding}{call.close}"
        case "text":
            return text


def render_turn(
    thought: str, outcome: ZoomCall | ZoomCalls | Answer, protocol: Protocol, *, video_fps: float = 1.0
) -> str:
    """A whole turn of the model in strict form, without its end-of-turn token.

    Args:
        thought: may mention tags, except the one that closes a thought.
        outcome: a call, or several; or an answer.
        protocol: the protocol to write it in.
        video_fps: frames per second of the video, for calls that name frames by their numbers.

    Returns:
        A turn of which `strict_action` gives the outcome back, its times and rates rounded to hundredths.

    Raises:
        ValueError: no well-formed turn can say that. Examples: a call of less than a hundredth of a second, an empty
            answer, an answer with tags in it.
    """
    if isinstance(outcome, Answer):
        tail = render_answer(outcome.text, protocol)
    else:
        tail = "\n".join(render_call(call, protocol, video_fps=video_fps) for call in calls_of(outcome))
    tags = protocol.thought
    turn = f"{tags.open}{thought}{tags.close}{tail}" if tags.open else tail
    if not isinstance(strict_action(turn, protocol, video_fps=video_fps), type(outcome)):
        raise ValueError(f"this turn is not well formed: {turn!r}")
    return turn
