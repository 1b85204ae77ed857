"""A protocol proved: each conversation of a file, rendered from its own facts, must give the file's text back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ...config import ZoomConfig
from ...protocol import ImagePart, Part, Protocol, TextPart, VideoPart, error_turn, parse_turn, prompt, tool_turn
from ...types import CallError, Malformed, VideoInfo, ZoomCall, calls_of
from .chats import IMAGE, MESSAGE_END, VIDEO, Chat
from .reading import Difference, Values, clip_field, first_difference, read_values

_NO_END = 1e9  # seconds: the duration of a video that says none
_PLACES: dict[type[Part], str] = {ImagePart: IMAGE, VideoPart: VIDEO}
_REPLY = f"{MESSAGE_END}\n<|im_start|>assistant\n"


@dataclass(frozen=True)
class Deviation:
    """A message that the protocol does not give.

    Attributes:
        row: the number of the conversation in its file, from 0.
        id: its own name.
        message: which: "system message", "opening", "tool turn 2".
        difference: the first place that differs.
        before: the text up to there.
    """

    row: int
    id: str
    message: str
    difference: Difference
    before: str

    def __str__(self) -> str:
        expected, found = (_shown(text) for text in (self.difference.expected, self.difference.found))
        place = f"character {self.difference.at}, after {_shown(self.before[-24:])}"
        return f"row {self.row} ({self.id}), {self.message}, {place}: the protocol has {expected}, the data {found}"


def check_chats(chats: Sequence[Chat], protocol: Protocol) -> list[Deviation]:
    """Render every conversation from its own facts (times, question, calls) and compare, character for character.

    Args:
        chats: the conversations.
        protocol: what they should be in.

    Returns:
        The first difference of every message that differs.
    """
    return [deviation for chat in chats for deviation in _deviations(chat, protocol)]


def _deviations(chat: Chat, protocol: Protocol) -> Iterator[Deviation]:
    if not protocol.turns.system_from_chat_template:
        rendered, _ = _opening("?", _video(chat, {}, 1.0), (), protocol)
        yield from _compared(chat, "system message", rendered, chat.system or "")
    video, question = _video(chat, {}, 1.0), ""
    read = read_values(protocol.text(protocol.turns.opening), chat.shown[0], protocol.frame)
    if isinstance(read, Difference):
        yield Deviation(chat.row, chat.id, "opening", read, chat.shown[0][: read.at])
    else:
        times, rate = _times(read)
        video, question = _video(chat, read.texts, rate), read.texts.get("question", "")
        _, rendered = _opening(question, video, times, protocol)
        yield from _compared(chat, "opening", rendered, chat.shown[0])
    num_shown = chat.shown[0].count(IMAGE)
    for turn, text in enumerate(chat.shown[1:], 1):
        if chat.roles[turn] != protocol.turns.tool_role:
            wanted = Difference(0, f"the role {protocol.turns.tool_role}", f"the role {chat.roles[turn]}")
            yield Deviation(chat.row, chat.id, f"tool turn {turn}", wanted, "")
        yield from _tool(chat, turn, text, question, video, num_shown, protocol)
        num_shown += text.count(IMAGE)


def _tool(
    chat: Chat, turn: int, text: str, question: str, video: VideoInfo, num_shown: int, protocol: Protocol
) -> Iterator[Deviation]:
    """The difference of a tool turn, if there is one."""
    turns, shows = protocol.turns, IMAGE in text or VIDEO in text
    zooms_left = max(0, _settings(protocol).max_zooms - turn)
    regular, last = (turns.tool, turns.last_tool) if shows else (turns.error, turns.last_error)
    template = last if zooms_left == 0 and last is not None else regular
    calls = calls_of(parse_turn(chat.written[turn - 1], protocol, video_fps=video.fps))
    if shows and not calls:
        missing = Difference(0, "no clip, because it reads no call in the turn before", text)
        yield Deviation(chat.row, chat.id, f"tool turn {turn}", missing, "")
        return
    read = read_values(_with_clips(protocol.text(template), len(calls), protocol), text, protocol.frame)
    if isinstance(read, Difference):
        yield Deviation(chat.row, chat.id, f"tool turn {turn}", read, text[: read.at])
        return
    if shows:
        rendered = _clips(read, calls, question, video, zooms_left, num_shown, protocol)
    else:
        rendered = _error(read, question, video, zooms_left, protocol)
    yield from _compared(chat, f"tool turn {turn}", rendered, text)


def _with_clips(template: str, num_clips: int, protocol: Protocol) -> str:
    """The template with the clips in their places. The fields of the second clip have names of their own."""
    if "{clips}" not in template:
        return template
    clip = protocol.text(protocol.turns.clip)
    clips = [clip, *(_renamed(clip, number) for number in range(1, num_clips))]
    return template.replace("{clips}", protocol.text(protocol.turns.clip_separator).join(clips))


def _renamed(clip: str, number: int) -> str:
    for name in ("frames", "start", "end", "clock_start", "clock_end", "num_frames", "note"):
        clip = clip.replace(f"{{{name}", f"{{{clip_field(name, number)}")
    return clip


# ---------------------------------------------------------------- rendering


def _settings(protocol: Protocol) -> ZoomConfig:
    return ZoomConfig.of(protocol)


def _opening(question: str, video: VideoInfo, times: Sequence[float], protocol: Protocol) -> tuple[str, str]:
    """The system message and the opening."""
    parts = prompt(question, video, times, _settings(protocol))
    system, _, opening = _text(parts).removesuffix(_REPLY).partition("<|im_start|>user\n")
    return system.removeprefix("<|im_start|>system\n").removesuffix(f"{MESSAGE_END}\n"), opening


def _clips(
    read: Values,
    calls: Sequence[ZoomCall],
    question: str,
    video: VideoInfo,
    zooms_left: int,
    num_shown: int,
    protocol: Protocol,
) -> str:
    """The tool turn of clips, each with the times that the text names."""
    times, _ = _times(read)
    counts = read.frames_per_clip
    clips, done = [], 0
    for number, call in enumerate(calls):
        count = counts[number] if number < len(counts) else 0
        clips.append((call, times[done : done + count]))
        done += count
    told = [read.texts.get(clip_field("end", number)) for number in range(len(calls))]
    ends = [float(end) for end, call in zip(told, calls, strict=True) if end and float(end) < call.end_seconds]
    if ends:  # the only sign of the video's end in some protocols
        video = replace(video, duration_seconds=min(video.duration_seconds, *ends))
    parts = tool_turn(clips, video, _settings(protocol), question=question, zooms_left=zooms_left, num_shown=num_shown)
    return _message(parts, protocol)


def _error(read: Values, question: str, video: VideoInfo, zooms_left: int, protocol: Protocol) -> str:
    """The turn about an error, with the words about it that the text has."""
    named = read.texts.get("error", "")
    kind = CallError(named) if named in set(map(str, CallError)) else CallError.BAD_VALUE
    if "help" in read.texts:
        protocol = replace(protocol, errors={str(kind): read.texts["help"]})
    problem = Malformed(kind, read.texts.get("detail", ""))
    parts = error_turn(problem, video, _settings(protocol), question=question, zooms_left=zooms_left)
    return _message(parts, protocol)


def _message(parts: Sequence[Part], protocol: Protocol) -> str:
    return _text(parts).partition(f"<|im_start|>{protocol.turns.tool_role}\n")[2].removesuffix(_REPLY)


def _text(parts: Sequence[Part]) -> str:
    """Parts as published data writes them: a placeholder for each frame, or for each clip of video tokens."""
    text = "".join(part.text if isinstance(part, TextPart) else _PLACES[type(part)] for part in parts)
    return text.replace(f"<|vision_start|>{IMAGE}<|vision_end|>", IMAGE)


# ---------------------------------------------------------------- facts


def _video(chat: Chat, told: Mapping[str, str], rate: float) -> VideoInfo:
    """The video as far as the conversation tells of it."""
    seconds = _NO_END
    if "duration" in told:
        seconds = float(told["duration"])
    elif clock := told.get("clock_duration") or told.get("short_duration"):
        seconds = _seconds(clock)
    return VideoInfo(chat.video or told.get("video_path", ""), seconds, rate, 0, 0)


def _times(read: Values) -> tuple[tuple[float, ...], float]:
    """The times of the frames, and the frame rate that their numbers in the file tell (1: numbers are times)."""
    times: list[float] = []
    for label in read.labels:
        clock = label.get("clock") or label.get("short_clock")
        if "time" in label:
            times.append(float(label["time"]))
        elif clock:
            times.append(_seconds(clock))
        else:
            times.append(float(label.get("frame", 0)))
    numbered = [
        (float(label["frame"]), time) for label, time in zip(read.labels, times, strict=True) if "frame" in label
    ]
    last = max(numbered, default=(0.0, 0.0))
    return tuple(times), last[0] / last[1] if last[1] else 1.0


def _seconds(clock: str) -> float:
    seconds = 0.0
    for part in clock.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


# ---------------------------------------------------------------- what is shown of a difference


def _compared(chat: Chat, message: str, expected: str, found: str) -> Iterator[Deviation]:
    if difference := first_difference(expected, found):
        yield Deviation(chat.row, chat.id, message, difference, found[: difference.at])


def _shown(text: str, limit: int = 40) -> str:
    return repr(text if len(text) <= limit else text[:limit] + "…") if text else "nothing"
