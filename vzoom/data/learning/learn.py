"""A protocol learned from published conversations: the words that all of them share.

The published data of a checkpoint shows its texts over and over: the same system message, the same words around frames
and question, one more sentence in the last round. What a conversation adds of its own (question, times, numbers)
becomes a field. What is no text (tags, frame rules, sizes, limits) is taken from a protocol that is known already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...protocol import (
    Frames,
    Protocol,
    TemplateField,
    Turns,
    builtin_names,
    builtin_protocol,
    escape_template,
    parse_turn,
    split_template,
)
from ...types import CallError, Malformed, TurnOutcome, ZoomCall, calls_of
from .chats import IMAGE, VIDEO, Chat
from .common import Pieces, Varying, align, around, most_common, nearly_all, split_numbers
from .labels import learn_frames
from .reading import Values, read_values

_FRAMES, _QUESTION, _VIDEO = "\ue000", "\ue001", "\ue002"  # stand for fields in texts that are compared
_SENTINELS = {_FRAMES: "{frames}", _QUESTION: "{question}", _VIDEO: "{video_path}"}
Facts = Mapping[str, float]


@dataclass(frozen=True)
class Learned:
    """What was learned.

    Attributes:
        protocol: with all texts that the data shows.
        found: a line for each thing that was found.
        unsure: a line for each thing that the data cannot tell.
    """

    protocol: Protocol
    found: tuple[str, ...]
    unsure: tuple[str, ...]


@dataclass(frozen=True)
class _Message:
    """A message that the model was shown, with sentinels for what a conversation adds.

    Attributes:
        text: the words, with one sentinel for all frames.
        turn: 0 for the opening, then 1, 2, …
        has_frames: whether it shows any.
        facts: what is known of it, by the names of template fields.
    """

    text: str
    turn: int
    has_frames: bool
    facts: Facts


def guess_base(chats: Sequence[Chat]) -> Protocol:
    """The built-in protocol whose grammar reads most of the calls.

    Raises:
        ValueError: none reads any.
    """
    counts = {}
    for name in builtin_names():
        base = builtin_protocol(name)
        turns = (text for chat in chats for text in chat.written[:-1])
        counts[name] = sum(bool(calls_of(_outcome(text, base))) for text in turns)
    # The protocols of checkpoints come before vzoom's own, which share a grammar with one of them.
    best = max(counts, key=lambda name: (counts[name], bool(builtin_protocol(name).checkpoints)))
    if not counts[best]:
        raise ValueError(
            "no built-in protocol reads a call in these conversations: name the one whose tags they have (--base)"
        )
    return builtin_protocol(best)


def learn_protocol(chats: Sequence[Chat], base: Protocol, *, name: str) -> Learned:
    """Learn the texts of a protocol.

    Args:
        chats: conversations in it.
        base: a protocol with the same tags, frame rules, sizes and limits; `guess_base` finds a built-in one.
        name: of the new protocol.

    Raises:
        ValueError: the data does not show what a protocol needs: two frames in one message, two different questions.
    """
    found: list[str] = []
    unsure: list[str] = []
    frames = _learn_frames(chats, base, unsure)
    found.append(f"label of a frame: {frames.label!r}, between frames {frames.separator!r}")

    system = most_common(chat.system or "" for chat in chats)
    if system:
        found.append(f"system message: {len(system)} characters")
    else:
        unsure.append("the system message: the conversations hold none, so the checkpoint's chat template gives it")
    opening = _learn_opening(chats, frames, found, unsure)
    turns = replace(
        base.turns,
        system=escape_template(system),
        system_from_chat_template=not system,
        opening=opening,
        budget="",
        last_budget="",
    )
    shown = [_tool_messages(chat, opening, frames, base) for chat in chats]
    turns, rounds = _learn_tool(turns, base, [one for chat in shown for one in chat if one.has_frames], found, unsure)
    turns = _learn_error(turns, [one for chat in shown for one in chat if not one.has_frames], rounds, found, unsure)
    roles = [role for chat in chats for role in chat.roles[1:]]
    if roles:
        turns = replace(turns, tool_role="tool" if most_common(roles) == "tool" else "user")
    limits = base.limits if rounds is None else replace(base.limits, max_zooms=rounds - 1)
    kept = {piece.name for text in vars(turns).values() if isinstance(text, str) for piece in _fields(text)}
    protocol = replace(
        base,
        name=name,
        checkpoints=base.checkpoints if base.missing else (),
        missing=tuple(text for text in base.missing if text in kept),
        texts={text: words for text, words in base.texts.items() if text in kept},
        turns=turns,
        frame=frames,
        limits=limits,
    )
    return Learned(protocol, tuple(found), tuple(unsure))


# ---------------------------------------------------------------- opening


def _learn_frames(chats: Sequence[Chat], base: Protocol, unsure: list[str]) -> Frames:
    if not any(IMAGE in text for chat in chats for text in chat.shown):
        if any(VIDEO in text for chat in chats for text in chat.shown):
            return replace(base.frame, label="", separator="", encoding="video")
        raise ValueError(f"the messages hold no {IMAGE} and no {VIDEO}: where the frames stood cannot be told")
    return replace(learn_frames(chats, unsure), encoding="image")


def _learn_opening(chats: Sequence[Chat], frames: Frames, found: list[str], unsure: list[str]) -> str:
    messages = [_message(chat.shown[0], 0, chat, frames) for chat in chats]
    texts = [message.text for message in messages]
    shown = most_common(text.count(_FRAMES) for text in texts)
    if shown > 1:
        raise ValueError("the opening shows frames in more than one place")
    sides = [text.partition(_FRAMES) for text in texts]
    heads, tails = [head for head, _, _ in sides], [tail for _, _, tail in sides]
    fixed_heads, fixed_tails = (_have_same_words(side) for side in (heads, tails))
    if not shown:
        template = _around_question(heads, messages, unsure)
    elif fixed_heads and not fixed_tails:
        before = _explain(_aligned(heads), messages, unsure)
        template = f"{before}{{frames}}{_around_question(tails, messages, unsure)}"
    elif fixed_tails and not fixed_heads:
        after = _explain(_aligned(tails), messages, unsure)
        template = f"{_around_question(heads, messages, unsure)}{{frames}}{after}"
    elif fixed_heads:
        raise ValueError("all conversations ask the same: the question cannot be told from the words around it")
    else:
        raise ValueError("the words before the frames of the opening differ, and those after them, too")
    found.append(f"opening: {template!r}")
    return template


def _have_same_words(texts: Sequence[str]) -> bool:
    words = [split_numbers(text)[0] for text in texts]
    usual = most_common(words)
    return nearly_all(one == usual for one in words)


def _aligned(texts: Sequence[str]) -> Pieces:
    usual = most_common(split_numbers(text)[0] for text in texts)
    kept = [i for i, text in enumerate(texts) if split_numbers(text)[0] == usual]
    return align([texts[i] for i in kept], kept)


def _around_question(texts: Sequence[str], messages: Sequence[_Message], unsure: list[str]) -> str:
    if len(set(texts)) < 2:
        raise ValueError("all conversations ask the same: the question cannot be told from the words around it")
    before, after = around(texts, range(len(texts)))
    if len(set(texts)) < 10:
        unsure.append(f"whether words around the question belong to it: only {len(set(texts))} different questions")
    return f"{_explain(before, messages, unsure)}{{question}}{_explain(after, messages, unsure)}"


# ---------------------------------------------------------------- tool turns


@dataclass(frozen=True)
class _Whole:
    """A template, and what it was made of.

    Attributes:
        words: what stands between the numbers.
        slots: the numbers: fixed ones, and those that differ.
        fields: what gives those that differ, by their place.
        rounds: turns that the model has, if the words count down what is left.
    """

    template: str
    words: tuple[str, ...]
    slots: tuple[str | Varying, ...]
    fields: Mapping[int, str]
    rounds: int | None


def _learn_tool(
    turns: Turns, base: Protocol, messages: Sequence[_Message], found: list[str], unsure: list[str]
) -> tuple[Turns, int | None]:
    """The turns with those for clips, and how many turns a conversation has at most; None if that cannot be told."""
    if base.call.per_turn > 1:
        messages = [message for message in messages if "start" in message.facts]  # those of one call
    if not messages:
        unsure.append(f"tool turns: no conversation shows a clip; those of the protocol {base.name} were kept")
        return turns, None
    words = [split_numbers(message.text)[0] for message in messages]
    usual = most_common(words)
    last_turn, last_words = _last_round(messages, words, usual)
    regular = [message for message, own in zip(messages, words, strict=True) if own == usual]
    whole = _whole(regular, unsure)
    tool, rounds, last_tool = whole.template, whole.rounds, None
    found.append(f"tool turn: {tool!r}")
    if last_turn is not None:
        rounds = rounds or last_turn + 1
        ending = [message for message, own in zip(messages, words, strict=True) if own == last_words]
        last_tool = _whole(ending, unsure, whole).template
        found.append(f"tool turn of the last round, which is turn {last_turn + 1}: {last_tool!r}")
    else:
        unsure.append("how the tool turn of the last round differs, and which round is the last: none differs")
    if base.call.per_turn > 1:
        turns = replace(turns, clip=tool, tool="{clips}", last_tool=None)
        if last_tool is not None and last_tool.startswith(tool):
            turns = replace(turns, last_tool="{clips}" + last_tool.removeprefix(tool))
        elif last_tool is not None:
            unsure.append("how the tool turn of the last round shows several clips")
        unsure.append(f"what stands between the clips of one turn; that of {base.name} was kept")
        return turns, rounds
    return replace(turns, tool=tool, last_tool=last_tool), rounds


def _last_round(
    messages: Sequence[_Message], words: Sequence[tuple[str, ...]], usual: tuple[str, ...]
) -> tuple[int | None, tuple[str, ...]]:
    """The turn whose tool turn nearly always has other words than usual, and these words."""
    for turn in sorted({message.turn for message in messages}, reverse=True):
        there = [own for message, own in zip(messages, words, strict=True) if message.turn == turn]
        other = most_common(there)
        elsewhere = [own for message, own in zip(messages, words, strict=True) if message.turn != turn]
        if other != usual and nearly_all(own == other for own in there) and not any(own == other for own in elsewhere):
            return turn, other
    return None, usual


def _whole(messages: Sequence[_Message], unsure: list[str], known: _Whole | None = None) -> _Whole:
    """The template of messages that have the same words.

    Args:
        messages: of one kind.
        unsure: what cannot be told is added to it.
        known: of messages that begin with the same words, whose numbers are then the same fields.
    """
    parts = [split_numbers(message.text) for message in messages]
    words, slots, rounds = parts[0][0], list[str | Varying](), list[int]()
    fields: dict[int, str] = {}
    for place in range(len(words) - 1):
        numbers = [numbers[place] for _, numbers in parts]
        usual = most_common(numbers)
        if known is not None and known.words[: place + 1] == words[: place + 1] and place < len(known.slots):
            slots.append(known.slots[place])
            fields |= {place: known.fields[place]} if place in known.fields else {}
        elif len(set(numbers)) == 1 or nearly_all(number == usual for number in numbers):
            slots.append(usual)
        else:
            varying = Varying(tuple(numbers), tuple(range(len(numbers))))
            slots.append(varying)
            fields[place] = _number(varying, messages, words[place], words[place + 1], unsure, rounds)
    template, text = "", words[0]
    for place, (slot, word) in enumerate(zip(slots, words[1:], strict=True)):
        if place in fields:
            template += _escaped(text) + fields[place]
            text = word
        else:
            text += str(slot) + word
    return _Whole(template + _escaped(text), words, tuple(slots), fields, rounds[0] if rounds else None)


# ---------------------------------------------------------------- error turns


def _learn_error(
    turns: Turns, messages: Sequence[_Message], rounds: int | None, found: list[str], unsure: list[str]
) -> Turns:
    """The turns with that for a call that could not be carried out."""
    last_turn = None if rounds is None else rounds - 1
    texts = [message.text for message in messages if message.turn != last_turn]
    last = [message.text for message in messages if message.turn == last_turn]
    extra = _extra(turns)
    if not texts and last and extra and all(text.endswith(extra) for text in last):
        texts = [text.removesuffix(extra) for text in last]
    if not texts:
        unsure.append("the error turn: no conversation shows one; vzoom's own words stand in it")
        tool = turns.tool
        return replace(turns, error=_own_error(tool), last_error=None)
    if len(set(texts)) < 2:
        unsure.append("what of the error turn is the error: all of them are the same, and stand there as they are")
        before, after = escape_template(texts[0]), ""
        error = before
    else:
        ends = around(texts, range(len(texts)))
        before, after = _fixed(ends[0], at_start=True), _fixed(ends[1], at_start=False)
        error = f"{before}{{help}}{after}"
    found.append(f"error turn: {error!r}")
    last_error = None
    if last:
        tail = after + escape_template(extra)
        if extra and all(text.endswith(extra) for text in last):
            last_error = error + escape_template(extra)
            found.append(f"error turn of the last round: {last_error!r}")
        else:
            unsure.append(f"how the error turn of the last round ends: not all do as {tail!r}")
    elif extra:
        last_error = error + escape_template(extra)
        unsure.append(
            "the error turn of the last round: no conversation shows one; it ends as the tool turn there does"
        )
    return replace(turns, error=error, last_error=last_error)


def _extra(turns: Turns) -> str:
    """What the tool turn of the last round has at its end, and the others have not."""
    if turns.last_tool is None or not turns.last_tool.startswith(turns.tool):
        return ""
    pieces = split_template(turns.last_tool.removeprefix(turns.tool))
    return "".join(piece for piece in pieces if isinstance(piece, str))


def _own_error(tool: str) -> str:
    """vzoom's words about an error, with the words at both ends of a tool turn around them."""
    before, _, after = tool.partition("{frames}")
    ends = ("".join(p for p in split_template(part) if isinstance(p, str)) for part in (before, after))
    head, tail = (escape_template(part) for part in ends)
    return f"{head}{{help}} {{detail}}{tail}"


def _fixed(pieces: Pieces, *, at_start: bool) -> str:
    """The words at the start, or at the end, up to the first number that differs."""
    outer = pieces if at_start else pieces[::-1]
    word = outer[0] if outer and isinstance(outer[0], str) else ""
    return escape_template(word)


# ---------------------------------------------------------------- messages and their fields


def _message(text: str, turn: int, chat: Chat, frames: Frames, facts: Facts | None = None) -> _Message:
    num_frames = text.count(IMAGE)
    if num_frames or VIDEO in text:
        text = _without_frames(text, frames)
    if chat.video:
        text = text.replace(chat.video, _VIDEO)
    return _Message(text, turn, _FRAMES in text, {**(facts or {}), "num_frames": num_frames})


def _without_frames(text: str, frames: Frames) -> str:
    """The text with one sentinel for its frames and their labels."""
    found = read_values("{before}{frames}{after}", text, frames)
    if isinstance(found, Values):
        return f"{found.texts['before']}{_FRAMES}{found.texts['after']}"
    return text


def _tool_messages(chat: Chat, opening: str, frames: Frames, base: Protocol) -> list[_Message]:
    """What a conversation shows after its opening."""
    read = read_values(opening, chat.shown[0], frames)
    told = read.texts if isinstance(read, Values) else {}
    question, end = told.get("question", ""), float(told.get("duration", "inf"))
    found = []
    for turn, text in enumerate(chat.shown[1:], 1):
        call = _outcome(chat.written[turn - 1], base)
        if isinstance(call, Malformed) and call.error is CallError.FRAME_ASKED:
            continue  # neither a clip nor an error came back
        facts: Facts = (
            {"start": call.start_seconds, "end": min(call.end_seconds, end)} if isinstance(call, ZoomCall) else {}
        )
        message = _message(text, turn, chat, frames, facts)
        if len(question) > 3 and question in message.text:
            message = replace(message, text=message.text.replace(question, _QUESTION))
        found.append(message)
    return found


def _outcome(text: str, base: Protocol) -> TurnOutcome:
    """What a turn does; the times of calls that name frames are those numbers."""
    return parse_turn(text, base, video_fps=1.0)


def _explain(pieces: Pieces, messages: Sequence[_Message], unsure: list[str], rounds: list[int] | None = None) -> str:
    """A template of pieces: each number that differs becomes the field that gives it."""
    template = ""
    for i, piece in enumerate(pieces):
        if isinstance(piece, str):
            template += _escaped(piece)
            continue
        follows = pieces[i + 1] if i + 1 < len(pieces) else ""
        template += _number(piece, messages, template, follows if isinstance(follows, str) else "", unsure, [])
    return template


def _fields(template: str) -> list[TemplateField]:
    return [piece for piece in split_template(template) if isinstance(piece, TemplateField)]


def _escaped(text: str) -> str:
    """A template of fixed words, in which sentinels become fields."""
    for sentinel in _SENTINELS:
        text = text.replace(sentinel, f"\0{sentinel}\0")
    return "".join(_SENTINELS.get(part, escape_template(part)) for part in text.split("\0"))


def _number(
    piece: Varying, messages: Sequence[_Message], before: str, after: str, unsure: list[str], rounds: list[int]
) -> str:
    """The field that gives the numbers of one place."""
    owners = [messages[owner] for owner in piece.owners]
    for name in ("num_frames", "start", "end"):
        for spec in _forms(piece.numbers):
            values = [message.facts.get(name) for message in owners]
            if _are_written(piece.numbers, values, spec, may_be_less=name == "end"):
                return f"{{{name}:{spec}}}" if spec else f"{{{name}}}"
    if all(number.isdigit() for number in piece.numbers):
        counts = [int(number) + message.turn for number, message in zip(piece.numbers, owners, strict=True)]
        usual = most_common(counts)
        if owners[0].turn and nearly_all(count == usual for count in counts):
            rounds.append(usual + 1)
            return "{zooms_left}"
    if owners[0].turn == 0:
        if nearly_all(number.count(":") == 2 for number in piece.numbers):
            return "{clock_duration}"
        if nearly_all(number.count(":") == 1 for number in piece.numbers):
            return "{short_duration}"
        digits = most_common(len(number.partition(".")[2]) for number in piece.numbers)
        unsure.append(f"whether the number after {before[-30:]!r} is the duration in seconds: it was taken for that")
        return f"{{duration:.{digits}f}}"
    unsure.append(f"what the number between {before[-30:]!r} and {after[:30]!r} is: the most common one was kept")
    return escape_template(most_common(piece.numbers))


def _forms(numbers: Sequence[str]) -> tuple[str, ...]:
    """Format specifications that may have written these numbers."""
    digits = {len(number.partition(".")[2]) for number in numbers}
    fixed = (f".{digits.pop()}f",) if len(digits) == 1 else ()
    return ("", "g", *fixed) if fixed in ((), (".0f",)) else (*fixed, "", "g")


def _are_written(numbers: Sequence[str], values: Sequence[float | None], spec: str, *, may_be_less: bool) -> bool:
    """Whether nearly all numbers are the values in this form; may_be_less: or less, as an end after the video's is."""
    pairs = [(number, value) for number, value in zip(numbers, values, strict=True) if value is not None]
    if len(pairs) < len(numbers):
        return False
    equal = [format(value, spec) == number for number, value in pairs]
    if not may_be_less:
        return nearly_all(equal)
    less = (":" not in number and float(number) < value for number, value in pairs)
    return sum(equal) >= 0.3 * len(equal) and nearly_all(map(any, zip(equal, less, strict=True)))
