"""What the model wrote: one turn of it -> zoom calls, an answer, or what is wrong with it.

Reading is tolerant of what models really write (code fences, single quotes, trailing commas, "12s", "1:05"). The
parser is only ever given text that the model sampled: a tag that comes from a question, a subtitle or a tool turn is
never executed.

Whatever the text: nothing raises, and reading takes time in proportion to its length. `grammars/` read what stands
between the tags, of which they are given a bounded part.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ..types import Answer, CallError, Malformed, TurnOutcome, ZoomCall, ZoomCalls
from .definition import GrammarName, Protocol
from .grammars import boxed
from .grammars.action import Action
from .grammars.base import Grammar, Said, excerpt
from .grammars.boxed import Boxed
from .grammars.clip import Clip
from .grammars.hermes import Hermes
from .grammars.json_text import objects
from .grammars.scanner import opening_tags
from .grammars.tags_json import TagsJson

GRAMMARS: dict[GrammarName, Grammar] = {
    "tags_json": TagsJson(),
    "hermes": Hermes(),
    "action": Action(),
    "clip": Clip(),
    "boxed": Boxed(),
}


def parse_turn(text: str, protocol: Protocol, *, video_fps: float) -> TurnOutcome:
    """Read one turn of the model.

    Args:
        text: what the model sampled, from the start of its turn.
        protocol: the protocol that it is written in.
        video_fps: frames per second of the video, for calls that name frames by their numbers.

    Returns:
        The call or the calls, the answer, or what is wrong. A call or an answer in a thought that is never closed is
        UNCLOSED. Nothing that a model can write raises.
    """
    acting, thinks = acting_text(text, protocol)
    if thinks:
        rest = _after_thoughts(text, protocol)
        acts = any(opening in rest for opening in opening_tags(protocol))
        return Malformed(CallError.UNCLOSED if acts else CallError.EMPTY, excerpt(rest))
    calls, answers = _actions(acting, protocol)
    if calls and answers:
        return Malformed(CallError.CALL_AND_ANSWER, excerpt(acting))
    if len(calls) > protocol.call.per_turn:
        return Malformed(CallError.TWO_CALLS, excerpt(acting))
    if calls:
        return _read_calls(calls, protocol, acting, video_fps)
    if answers:
        said = _answer_text(answers[-1], protocol)
        return Answer(said) if said else Malformed(CallError.EMPTY, excerpt(acting))
    if protocol.answer.form == "text" and acting.strip():
        return Answer(acting.strip())
    return Malformed(CallError.EMPTY, excerpt(acting))


def acting_text(text: str, protocol: Protocol) -> tuple[str, bool]:
    """The part of a turn in which tags act: what follows its last closed thought. Tags in a thought are talk.

    Args:
        text: a turn, or as much of it as is written.
        protocol: the protocol that it is written in.

    Returns:
        The text, and whether an open thought follows it. (`<think>` in a call or an answer opens none.)
    """
    rest = _after_thoughts(text, protocol)
    if not protocol.thought.open:
        return rest, False
    thought = rest.find(protocol.thought.open)
    if thought < 0 or any(rest.find(opening, 0, thought) >= 0 for opening in opening_tags(protocol)):
        return rest, False
    return rest[:thought], True


def untagged_answer(text: str, protocol: Protocol) -> str | None:
    """What a turn without a call or an answer tag says outside its thought, without surrounding white space.

    Args:
        text: a turn that its writer ended.
        protocol: the protocol that it is written in.

    Returns:
        The text; None if there is none, if a thought is open, or if there are tags.
    """
    acting, thinks = acting_text(text, protocol)
    said = acting.strip()
    return said if said and not thinks and not any(tag in said for tag in protocol.tags) else None


def partial_call(body: str, protocol: Protocol, *, video_fps: float, max_frames: int) -> ZoomCall | None:
    """The call that an unfinished turn seems to be writing: a guess for decoding early. `parse_turn` decides.

    Args:
        body: what is written of the call, without its opening tag (`TurnScanner.call_start`).
        protocol: the protocol that it is written in.
        video_fps: frames per second of the video, for calls that name frames by their numbers.
        max_frames: the call is taken to fill so many frames until its fps is readable.

    Returns:
        The call, or None until its segment is readable.
    """
    if len(body) > protocol.call.max_characters:
        return None
    said = GRAMMARS[protocol.call.grammar].partial(body, protocol.call)
    if said is None:
        return None
    rate = said.fps if said.fps and 0 < said.fps < math.inf else None
    is_full = rate is None and said.num_frames is None and protocol.zoom.fps is None
    said = Said(said.start, said.end, rate, max_frames if is_full else said.num_frames)
    call = _located(said, protocol, "", video_fps)
    if not isinstance(call, ZoomCall):
        return None
    return replace(call, num_frames=None) if is_full and "fps" in protocol.call.arguments else call


def _after_thoughts(text: str, protocol: Protocol) -> str:
    return text.rsplit(protocol.thought.close, 1)[-1] if protocol.thought.close else text


def _actions(acting: str, protocol: Protocol) -> tuple[list[tuple[str, bool]], list[str]]:
    """(text, whether it is closed) of every call, and the texts of the answers."""
    call, answer = protocol.call, protocol.answer
    calls = list(boxed.boxes(acting)) if call.grammar == "boxed" else _between(acting, call.open, call.close)
    answers: list[str] = []
    if answer.form in ("tag", "tag_boxed"):
        answers = [body for body, _ in _between(acting, answer.open, answer.close)]
    elif answer.form == "boxed" and call.grammar != "boxed":
        answers = [body for body, _ in boxed.boxes(acting)]
    elif answer.form == "action":
        answers = [body for body, _ in calls if answer.open in body]
        calls = [one for one in calls if answer.open not in one[0]]
    if call.grammar == "hermes" and call.per_turn > 1:  # EVA writes several calls between one pair of tags
        calls = [(one, closed) for body, closed in calls for one in _parts(body, call.max_characters)]
    if call.grammar == "boxed":
        if answer.form == "boxed":
            answers = [body for body, _ in calls if not boxed.is_call(body)]
        calls = [one for one in calls if boxed.is_call(one[0])]
    return calls, answers


def _parts(body: str, max_characters: int) -> list[str]:
    """The calls between one pair of tags."""
    return objects(body) if len(body) <= max_characters else [body]


def _between(text: str, opening: str, closing: str) -> list[tuple[str, bool]]:
    """What follows each `opening`, up to the next `closing` or the next `opening`, and whether it was closed."""
    parts = (part.partition(closing) for part in text.split(opening)[1:])
    return [(body, bool(closed)) for body, closed, _ in parts]


def _answer_text(body: str, protocol: Protocol) -> str:
    answer = protocol.answer
    if answer.form == "action":
        body = body.partition(answer.open)[2]
        return body.rpartition(answer.close)[0].strip() if answer.close and answer.close in body else body.strip()
    if answer.form == "tag_boxed":
        inside = [text.strip() for text, closed in boxed.boxes(body) if closed and text.strip()]
        return inside[-1] if inside else body.strip()
    return body.strip()


def _read_calls(calls: list[tuple[str, bool]], protocol: Protocol, acting: str, video_fps: float) -> TurnOutcome:
    found: list[ZoomCall] = []
    for body, closed in calls:
        one = _read_call(body, protocol, video_fps)
        if isinstance(one, Malformed):
            # A call whose closing tag is missing is carried out when its text is whole: the intent is plain.
            return one if closed else Malformed(CallError.UNCLOSED, excerpt(acting))
        found.append(one)
    return found[0] if len(found) == 1 else ZoomCalls(tuple(found))


def _read_call(body: str, protocol: Protocol, video_fps: float) -> ZoomCall | Malformed:
    call = protocol.call
    if len(body) > call.max_characters:
        return Malformed(CallError.BAD_JSON, f"a call of {len(body)} characters, the limit is {call.max_characters}")
    said = GRAMMARS[call.grammar].read(body, call)
    return said if isinstance(said, Malformed) else _located(said, protocol, body, video_fps)


def _located(said: Said, protocol: Protocol, body: str, video_fps: float) -> ZoomCall | Malformed:
    """The call in seconds, if its numbers can be carried out."""

    def wrong(error: CallError) -> Malformed:
        return Malformed(error, excerpt(body))

    start, end, num_frames = said.start, said.end, said.num_frames
    fps = protocol.zoom.fps if said.fps is None and num_frames is None else said.fps
    needs_rate = "fps" in protocol.call.arguments and num_frames is None
    if start is None or end is None or (fps is None and needs_rate):
        return wrong(CallError.MISSING_KEY)
    if not all(math.isfinite(value) for value in (start, end, fps or 0.0, num_frames or 0.0)):
        return wrong(CallError.NOT_FINITE)
    if min(start, end, fps or 0.0, num_frames or 0.0) < 0:
        return wrong(CallError.NEGATIVE)
    if protocol.call.unit == "frames":
        start, end = start / video_fps, end / video_fps
    if start >= end:
        return wrong(CallError.REVERSED)
    if num_frames is None and fps is None:
        num_frames = float(protocol.zoom.max_frames)
    if num_frames is not None:
        if num_frames < 1:
            return wrong(CallError.ZERO_FRAMES)
        num_frames = float(int(num_frames))
        fps = fps or num_frames / (end - start)
    if not fps:
        return wrong(CallError.ZERO_FRAMES)
    if not math.isfinite(fps):
        return wrong(CallError.NOT_FINITE)
    return ZoomCall(start, end, fps, None if num_frames is None else int(num_frames))
