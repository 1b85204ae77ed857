"""A protocol as data: everything that a model was trained to be shown and to write, in one frozen dataclass.

A checkpoint answers well only in the protocol that it was trained in, so the protocol is a value that loading finds
(`protocol.toml`) and every conversation carries. `protocol_file.py` reads and writes it; `render.py` shows the turns
by it, `grammars/` reads what the model wrote by it, `frame_times.py` chooses frames by it.

Texts are templates (`template.py`): text with fields in braces. The turns are those of the ChatML format of the Qwen
families; a template holds what stands between `<|im_start|>role` and `<|im_end|>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, get_type_hints
from typing import Protocol as Structural

from . import template

Encoding = Literal["image", "video"]
RopeRule = Literal["max", "hf523"]
GrammarName = Literal["tags_json", "hermes", "action", "clip", "boxed"]
AnswerForm = Literal["tag", "tag_boxed", "boxed", "action", "text"]
GlanceName = Literal["exact", "videozoomer", "framethinker", "conan", "qwen", "qwen_count", "none"]
ZoomName = Literal["exact", "videozoomer", "framethinker", "conan", "qwen", "eva", "timesearch"]
ResizeName = Literal["videozoomer", "direct", "box"]
TimeUnit = Literal["seconds", "frames"]
LONG_VIDEO_SECONDS = 300  # FrameThinker shows longer videos with more and smaller frames
ARGUMENTS = ("segment", "start", "end", "fps", "num_frames")  # what a call can say, in vzoom's words

# The fields of templates, with values that try out their format specifications.
_ALWAYS: dict[str, object] = {
    "duration": 1.0,  # of the video, seconds
    "clock_duration": "00:00:01",
    "short_duration": "00:01",
    "video_fps": 1.0,
    "video_path": "",
    "question": "",
    "zooms_left": 1,  # calls that the model may still make
    "max_zooms": 1,
    "zoom_max_frames": 1,
}
_ASKED: dict[str, object] = {"num_frames": 1, "frames": "", "budget": ""}
_CLIP: dict[str, object] = {
    "start": 1.0,  # of the call, seconds
    "end": 1.0,  # the same, not after the end of the video
    "clock_start": "00:00:01",
    "clock_end": "00:00:01",
    "num_frames": 1,
}
_ERROR: dict[str, object] = {"error": "", "help": "", "detail": "", "budget": ""}
_FRAME_NUMBER: dict[str, object] = {"time": "00:01", "frame": 1}
_LABEL: dict[str, object] = {
    "index": 1,  # of the frame, from first_index
    "number": 1,  # index + 1
    "time": 1.0,
    "clock": "00:00:01",
    "short_clock": "00:01",
    "frame": 1,  # its number in the file, from 0
}


@dataclass(frozen=True)
class Turns:
    """The texts of the turns, as templates.

    All may hold {duration:.2f}, {clock_duration}, {short_duration}, {video_fps:g}, {video_path}, {question},
    {zooms_left}, {max_zooms} and {zoom_max_frames}.

    Attributes:
        system: the system message; "" for none.
        system_from_chat_template: the system message is what the checkpoint's own chat template makes of `system` and
            the tool schema (`Call.schema`).
        opening: the first user message. Also {frames}, {num_frames}, {budget}.
        tool: what comes back for calls. Also {clips}, {budget} and, if a turn holds one call at most, what `clip` may
            hold.
        last_tool: the same if the model has one turn left; `tool` if not given.
        clip: one clip in {clips}. Also {frames}, {start:.2f}, {end:.2f}, {clock_start}, {clock_end}, {num_frames},
            {note}.
        clip_separator: between the clips of one turn.
        end_note: {note} if the end of a call was moved to the end of the video; the fields of a clip but {note}.
        fewer_note: in {note}, after `end_note`, if the video has fewer frames there than the call asked for, because
            they follow each other unevenly; the fields of a clip but {note}.
        error: what comes back for a turn that could not be carried out. Also {error} (its kind), {help} (how to
            mend it), {detail} (what the model wrote), {budget}.
        last_error: the same if the model has one turn left; `error` if not given.
        frame_number: what comes back for `CallFormat.ask`. Also {time} (as the model wrote it) and {frame}.
        budget: {budget} while more than one turn is left.
        last_budget: {budget} if one turn is left.
        tool_role: the role of tool and error turns.
        after_stop: between what the model wrote and the next turn. If the model ended its turn itself, the
            `<|im_end|>` at its head is not added again.
    """

    system: str = ""
    system_from_chat_template: bool = False
    opening: str = "{frames}{question}"
    tool: str = "<tool_response>\n{clips}\n</tool_response>"
    last_tool: str | None = None
    clip: str = "{frames}"
    clip_separator: str = "\n"
    end_note: str = ""
    fewer_note: str = ""
    error: str = "<tool_response>\n{help} {detail}\n</tool_response>"
    last_error: str | None = None
    frame_number: str = "Frame {frame} is at {time}."
    budget: str = ""
    last_budget: str = ""
    tool_role: Literal["user", "tool"] = "user"
    after_stop: str = "<|im_end|>\n"


@dataclass(frozen=True)
class Frames:
    """How frames stand in a turn.

    Attributes:
        label: the text before a frame, a template: {index}, {number} (index + 1), {time:.2f}, {clock} (HH:MM:SS),
            {short_clock} (MM:SS), {frame} (its number in the file, from 0).
        separator: the text between a frame and the next label.
        first_index: {index} of the first frame.
        index_restarts: where {index} begins anew: in each "clip", in each "turn" (whose clips count on), or "never".
        encoding: "image" shows each frame as an image; "video" shows the frames of a clip as video tokens, two frames
            in a patch: half the tokens. How they are written (one block, or `<1.5 seconds>` and a block for each pair)
            is the model family's; the label is not used.
        rope_rule: where text stands after a video that takes more time positions than it is wide and high: "max", after
            all of it, as Qwen-VL models were trained; "hf523", after its width and height, as transformers 5.23 does.
    """

    label: str = ""
    separator: str = ""
    first_index: int = 0
    index_restarts: Literal["clip", "turn", "never"] = "clip"
    encoding: Encoding = "image"
    rope_rule: RopeRule = "max"


@dataclass(frozen=True)
class CallFormat:
    """How the model calls for a zoom.

    Attributes:
        grammar: "tags_json" (JSON between tags), "hermes" (JSON with the tool's name and its arguments between tags),
            "action" (a sentence between tags), "clip" (a clock span between tags), "boxed" (a list in \\boxed{}).
        open, close: the tags around a call; of "boxed", what stands for them.
        tool: the tool's name, of "hermes"; the sentence, of "action": a template with {start} and {end}.
        ask: the sentence, of "action", that asks for the number of the frame at a time: a template with {time}. It
            takes a turn and brings no frames. "" if the model has no such action.
        name_key, arguments_key: the keys of the tool's name and of its arguments, of "hermes".
        arguments: what vzoom calls `segment` (a list of start and end), `start`, `end`, `fps` and `num_frames`, and
            the names that the model writes for them. Calls are written with these; "tags_json" also reads others.
        padding: white space between the tags and what stands in them.
        time_format: how times are written: "number", "clock" (HH:MM:SS) or "short_clock" (MM:SS). All are read.
        unit: whether a call gives seconds or numbers of frames in the file.
        per_turn: calls that one turn may hold.
        schema: the tool's schema as JSON text, a template, for `Turns.system_from_chat_template`; "" for none.
        stop: texts after which a turn ends outside thoughts. If not given: the closing tags of an answer and, if a
            turn holds one call at most, of a call; none for \\boxed{}.
        max_characters: of the text between the tags; a longer call is refused unread.
    """

    grammar: GrammarName = "tags_json"
    open: str = "<video_zoom>"
    close: str = "</video_zoom>"
    tool: str = ""
    ask: str = ""
    name_key: str = "name"
    arguments_key: str = "arguments"
    arguments: Mapping[str, str] = field(default_factory=lambda: {"segment": "segment", "fps": "fps"}, hash=False)
    padding: str = ""
    time_format: Literal["number", "clock", "short_clock"] = "number"
    unit: TimeUnit = "seconds"
    per_turn: int = 1
    schema: str = ""
    stop: tuple[str, ...] | None = None
    max_characters: int = 4096


@dataclass(frozen=True)
class AnswerFormat:
    """How the model answers.

    Attributes:
        form: "tag" (between tags), "tag_boxed" (\\boxed{} between tags), "boxed" (\\boxed{}), "action" (an action with
            the words of `open` and `close` around the answer), "text" (what a turn without a call says outside its
            thought).
        open, close: the tags; of "action", what stands before and after the answer in the call's own tags.
    """

    form: AnswerForm = "tag"
    open: str = "<answer>"
    close: str = "</answer>"


@dataclass(frozen=True)
class ThoughtFormat:
    """How the model thinks. Tags in a thought are talk.

    Attributes:
        open, close: the tags of a thought; both "" if the model has none.
        required: whether a turn without a thought breaks the grammar (`protocol.strict_action`).
    """

    open: str = "<think>"
    close: str = "</think>"
    required: bool = True


@dataclass(frozen=True)
class GlanceRule:
    """Which frames the glance shows.

    Attributes:
        rule: the name of a rule in `frame_times.py`; "none" for a conversation that begins without frames.
        fps: frames per second, if the video is short enough for it.
        max_frames: frames at most.
    """

    rule: GlanceName = "exact"
    fps: float = 0.5
    max_frames: int = 64


@dataclass(frozen=True)
class ZoomRule:
    """Which frames a zoom shows.

    Attributes:
        rule: the name of a rule in `frame_times.py`.
        fps: the rate of a call that says none; its frames are `max_frames` if this is not given either.
        max_frames: frames at most.
    """

    rule: ZoomName = "exact"
    fps: float | None = None
    max_frames: int = 16


@dataclass(frozen=True)
class Pixels:
    """The size of frames.

    Attributes:
        min: smaller frames are enlarged to so many pixels.
        max: larger frames are shrunk to so many pixels.
        resize: "videozoomer" shrinks with Lanczos to `max`, then resizes like Hugging Face's processor; "direct" only
            does the latter; "box" shrinks with Lanczos until the frame fits in `box` first.
        box: width and height in pixels, of "box".
        long_box: the same of videos of more than 300 s; `box` if not given.
    """

    min: int = 3136
    max: int = 100352
    resize: ResizeName = "videozoomer"
    box: tuple[int, int] | None = None
    long_box: tuple[int, int] | None = None


@dataclass(frozen=True)
class Limits:
    """What else a conversation is limited to; `ZoomConfig` has the meanings. Its defaults stand for what is left out.

    Attributes:
        max_zooms: turns that the model may write, less one.
        max_frames: frames of a conversation.
        max_new_tokens: tokens of one turn.
        max_total_tokens: tokens of a conversation.
    """

    max_zooms: int | None = None
    max_frames: int | None = None
    max_new_tokens: int | None = None
    max_total_tokens: int | None = None


@dataclass(frozen=True)
class Protocol:
    """All that a model was trained to be shown and to write.

    Attributes:
        name: what records, results and reports carry.
        checkpoints: the hub ids that were trained in it.
        explained_by: the name of a protocol of the same grammar whose words explain it, for whoever does not know it
            (an expert behind an endpoint); "" if its own do.
        missing: names of texts that templates hold as fields and that are not ours to ship: they must be learned or
            given before the protocol can be used.
        texts: such texts by name, as templates.
        errors: {help} by the kind of an error (`CallError`), where vzoom's own words do not suit.
        turns: the texts, see `Turns`. The other sections are described in their classes too.

    Raises:
        ValueError: a value is out of range, or a template has an unknown field. The message names the key.
    """

    name: str
    checkpoints: tuple[str, ...] = ()
    explained_by: str = ""
    missing: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict, hash=False)
    errors: Mapping[str, str] = field(default_factory=dict, hash=False)
    turns: Turns = Turns()
    frame: Frames = Frames()
    call: CallFormat = CallFormat()
    answer: AnswerFormat = AnswerFormat()
    thought: ThoughtFormat = ThoughtFormat()
    glance: GlanceRule = GlanceRule()
    zoom: ZoomRule = ZoomRule()
    pixels: Pixels = Pixels()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name: a protocol has a name")
        _check_choices(self)
        _check_templates(self)
        _check_values(self)

    def override(self, *, name: str | None = None, **sections: Mapping[str, Any]) -> Protocol:
        """A copy with other values.

        Args:
            name: of the copy; the same if not given.
            sections: by the name of a section, values by the names of its fields: `zoom={"max_frames": 8}`.

        Raises:
            TypeError: there is no such section or field.
            ValueError: a value is out of range.
        """
        changed = {section: replace(getattr(self, section), **values) for section, values in sections.items()}
        return replace(self, name=name or self.name, **changed)

    @property
    def unknown_texts(self) -> tuple[str, ...]:
        """The texts that must be learned or given before the protocol can be used, in the order of `missing`."""
        used = set[str]()
        for _, text, _ in _templates(self):
            used |= template.fields_of(template.with_texts(text, self.texts))
        return tuple(name for name in self.missing if name in used and name not in self.texts)

    @property
    def language(self) -> tuple[Any, ...]:
        """What a model must have learned to read and write: everything but the choice and the size of frames."""
        words = (self.turns, tuple(self.texts.items()), tuple(self.errors.items()), self.frame)
        return (*words, self.call, self.answer, self.thought)

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of thoughts, calls and answers that look like tags: those that a tokenizer may have as tokens."""
        found = [self.thought.open, self.thought.close, self.call.open, self.call.close]
        found += [self.answer.open, self.answer.close] if self.answer.form in ("tag", "tag_boxed") else []
        return tuple(tag for tag in dict.fromkeys(found) if _TAG.fullmatch(tag))

    @property
    def tool_tags(self) -> tuple[str, ...]:
        """The tags around what comes back for a call."""
        return tuple(dict.fromkeys(_TAG.findall(self.turns.tool + self.turns.clip)))

    def text(self, template_: str) -> str:
        """A template with the protocol's own texts in their places."""
        return template.with_texts(template_, self.texts)


class ViewSettings(Structural):
    """What rules about frames and pixels read of the settings of a conversation. `ZoomConfig` has it all."""

    @property
    def protocol(self) -> Protocol: ...
    @property
    def glance_fps(self) -> float: ...
    @property
    def glance_max_frames(self) -> int: ...
    @property
    def zoom_max_frames(self) -> int: ...
    @property
    def max_zooms(self) -> int: ...
    @property
    def min_pixels(self) -> int: ...
    @property
    def max_pixels(self) -> int: ...


_TAG = re.compile(r"</?[a-z_]+>")

SECTIONS = tuple(
    name
    for name, kind in get_type_hints(Protocol).items()
    if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__")
)


# ---------------------------------------------------------------- checks


def _templates(protocol: Protocol) -> list[tuple[str, str, dict[str, object]]]:
    """(key, template, its fields with examples) of every template that is not itself one of `texts`."""
    turns, clip = protocol.turns, {**_ALWAYS, **_CLIP}
    tool = {**_ALWAYS, "clips": "", "budget": ""}
    if protocol.call.per_turn == 1:
        tool |= {**clip, "frames": "", "note": ""}
    found: list[tuple[str, str | None, dict[str, object]]] = [
        ("turns.system", turns.system, _ALWAYS),
        ("turns.opening", turns.opening, {**_ALWAYS, **_ASKED}),
        ("turns.tool", turns.tool, tool),
        ("turns.last_tool", turns.last_tool, tool),
        ("turns.clip", turns.clip, {**clip, "frames": "", "note": ""}),
        ("turns.end_note", turns.end_note, clip),
        ("turns.fewer_note", turns.fewer_note, clip),
        ("turns.error", turns.error, {**_ALWAYS, **_ERROR}),
        ("turns.last_error", turns.last_error, {**_ALWAYS, **_ERROR}),
        ("turns.frame_number", turns.frame_number, {**_ALWAYS, **_FRAME_NUMBER}),
        ("turns.budget", turns.budget, _ALWAYS),
        ("turns.last_budget", turns.last_budget, _ALWAYS),
        ("frame.label", protocol.frame.label, _LABEL),
        ("call.schema", protocol.call.schema, {}),
    ]
    if protocol.call.grammar == "action":
        found.append(("call.tool", protocol.call.tool, {"start": 1.0, "end": 1.0}))
        found.append(("call.ask", protocol.call.ask, {"time": 1.0}))
    return [(key, text, known) for key, text, known in found if text is not None]


def _check_templates(protocol: Protocol) -> None:
    for name in (*protocol.missing, *protocol.texts):
        if template.split_template(f"{{{name}}}") != (template.TemplateField(name, ""),):
            raise ValueError(f"missing and texts: the name of a text is lower-case letters and _, got {name!r}")
    for key, text, known in _templates(protocol):
        names = {*known, *protocol.missing} - set(protocol.texts)
        if problem := template.check(protocol.text(text), names, known):
            raise ValueError(f"{key}: {problem}")
    if protocol.call.schema and not protocol.unknown_texts:
        try:
            json.loads(template.fill_template(protocol.text(protocol.call.schema), {}))
        except ValueError as error:
            raise ValueError(f"call.schema: no JSON: {error}") from None
    from ..types import CallError  # here: it brings numpy, and `vzoom --help` must not

    kinds = [str(kind) for kind in CallError]
    for kind in protocol.errors:
        if kind not in kinds:
            raise ValueError(f"errors.{kind}: no such error; there are {', '.join(kinds)}")


def _check_choices(protocol: Protocol) -> None:
    for section in SECTIONS:
        values = getattr(protocol, section)
        for name, kind in get_type_hints(type(values)).items():
            allowed = get_args(kind)
            if getattr(kind, "__origin__", None) is Literal and getattr(values, name) not in allowed:
                raise ValueError(
                    f"{section}.{name}: must be one of {', '.join(allowed)}, got {getattr(values, name)!r}"
                )


def _check_values(protocol: Protocol) -> None:
    call, answer, thought, pixels = protocol.call, protocol.answer, protocol.thought, protocol.pixels
    problems = {
        "call.open, call.close": not (call.open and call.close),
        "call.tool": call.grammar in ("hermes", "action") and not call.tool,
        "call.ask": call.ask != "" and (call.grammar != "action" or "{time}" not in call.ask),
        "call.open": call.grammar == "boxed" and call.open != "\\boxed{",
        "call.per_turn": call.per_turn < 1,
        "call.max_characters": call.max_characters < 1,
        "answer.open, answer.close": answer.form in ("tag", "tag_boxed") and not (answer.open and answer.close),
        "answer.form": answer.form == "action" and call.grammar != "action",
        "answer.open": answer.form == "action" and not answer.open,
        "thought.open, thought.close": bool(thought.open) != bool(thought.close),
        "thought.required": thought.required and not thought.open,
        "glance.fps": not 0 < protocol.glance.fps < float("inf"),
        "glance.max_frames": protocol.glance.max_frames < 1,
        "zoom.fps": protocol.zoom.fps is not None and not 0 < protocol.zoom.fps < float("inf"),
        "zoom.max_frames": protocol.zoom.max_frames < 1,
        "pixels.min": not 0 < pixels.min <= pixels.max,
        "pixels.box": (pixels.box is None) == (pixels.resize == "box") or min(pixels.box or (1,)) < 1,
        "pixels.long_box": pixels.long_box is not None and (pixels.box is None or min(pixels.long_box) < 1),
    }
    for key, is_wrong in problems.items():
        if is_wrong:
            raise ValueError(f"{key}: {_RULES[key]}, got {_value_of(protocol, key)}")
    for name, key in call.arguments.items():
        if name not in ARGUMENTS or not key:
            raise ValueError(f"call.arguments: {name!r} is none of {', '.join(ARGUMENTS)}, or has no name")
    has_times = "segment" in call.arguments or {"start", "end"} <= call.arguments.keys()
    if call.grammar in ("tags_json", "hermes") and not has_times:
        raise ValueError("call.arguments: a call needs segment, or start and end")


_RULES = {
    "call.open, call.close": "both are needed",
    "call.tool": "hermes calls a tool by its name, action by its sentence",
    "call.ask": 'a sentence of the grammar "action" with {time}',
    "call.open": "boxed calls open with \\boxed{",
    "call.per_turn": "must be 1 or more",
    "call.max_characters": "must be 1 or more",
    "answer.open, answer.close": "an answer between tags needs both",
    "answer.form": 'the form "action" goes with call.grammar "action"',
    "answer.open": 'the form "action" needs the words before the answer',
    "thought.open, thought.close": "both or none",
    "thought.required": "a protocol without thoughts cannot require one",
    "glance.fps": "must be above 0",
    "glance.max_frames": "must be 1 or more",
    "zoom.fps": "must be above 0",
    "zoom.max_frames": "must be 1 or more",
    "pixels.min": "must be above 0 and at most pixels.max",
    "pixels.box": 'a width and a height of 1 or more, which go with pixels.resize "box", and only with it',
    "pixels.long_box": "a width and a height of 1 or more, which go with pixels.box",
}


def _value_of(protocol: Protocol, keys: str) -> str:
    values: list[Any] = []
    for key in keys.split(", "):
        section, _, name = key.partition(".")
        values.append(getattr(getattr(protocol, section), name))
    return ", ".join(map(repr, values))
