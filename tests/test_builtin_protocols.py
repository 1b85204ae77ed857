"""The built-in protocols: their turns, token for token, and what they make of what models write."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from golden_protocols import QUESTION, TOKENIZERS, TURNS, golden_ids, tokenizer_of

from vzoom.config import ZoomConfig
from vzoom.protocol import (
    Part,
    Protocol,
    TextCodec,
    builtin_for,
    builtin_names,
    builtin_protocol,
    check_complete,
    error_turn,
    feedback,
    parse_turn,
    prompt,
    tokenize_parts,
    tool_turn,
    with_system,
)
from vzoom.protocol.render import _HELP
from vzoom.types import Answer, CallError, Malformed, VideoInfo, ZoomCall, calls_of

PUBLISHED = tuple(TURNS)
VIDEO = VideoInfo("v.mp4", duration_seconds=63.2, fps=25.0, width=56, height=28)


def complete(name: str) -> Protocol:
    """The protocol with placeholders for the texts that it lacks."""
    protocol = builtin_protocol(name)
    protocol = replace(protocol, texts={text: f"[{text}]" for text in protocol.missing})
    return with_system(protocol, "[system_text]") if protocol.turns.system_from_chat_template else protocol


def turns_of(name: str) -> dict[str, list[Part]]:
    """The turns that `golden_protocols` has, as vzoom renders them."""
    protocol = with_system(complete(name), "[system_text]")
    config = ZoomConfig.of(protocol)
    glance = () if protocol.glance.rule == "none" else (0.0, 61.0)
    clips = [(ZoomCall(12.0, 14.0, 1.0), (12.0, 13.0))]
    if protocol.call.per_turn > 1:
        clips.append((ZoomCall(40.0, 41.5, 1.0), (40.0, 41.48)))
    wrong = Malformed(CallError.REVERSED, "14 to 12")
    asked = Malformed(CallError.FRAME_ASKED, "get frame number at time 01:02")
    more = {"asked": error_turn(asked, VIDEO, config, question=QUESTION, zooms_left=2)} if protocol.call.ask else {}
    return {
        "glance": prompt(QUESTION, VIDEO, glance, config),
        "tool": tool_turn(clips, VIDEO, config, question=QUESTION, zooms_left=2, num_shown=len(glance)),
        "last": tool_turn(clips, VIDEO, config, question=QUESTION, zooms_left=0, num_shown=len(glance)),
        "error": error_turn(wrong, VIDEO, config, question=QUESTION, zooms_left=2),
        **more,
    }


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_four_turns_have_the_ids_of_the_facts(name: str, tokenizer: str) -> None:
    made = tokenizer_of(tokenizer)
    codec = TextCodec(made.backend_tokenizer)
    image = codec.token_id("<|image_pad|>")
    assert image is not None
    golden = golden_ids(tokenizer)[name]
    for turn, parts in turns_of(name).items():
        ids = tokenize_parts(parts, [(2, 4)] * 4, codec, image, 2).ids
        assert made.decode(ids) == made.decode(golden[turn]), turn
        assert ids == golden[turn], turn


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_golden_ids_are_those_of_the_text_that_was_put_together(name: str) -> None:
    encode = tokenizer_of("bytes").encode
    assert golden_ids("bytes")[name] == {turn: encode(text) for turn, text in TURNS[name].items()}


def test_texts_that_are_not_ours_are_missing_and_named() -> None:
    assert set(PUBLISHED) == set(builtin_names()) - {"vzoom", "vzoom-brief"}
    for name in PUBLISHED:
        protocol = builtin_protocol(name)
        if name == "qwen-zero-shot":
            check_complete(protocol)
            continue
        assert protocol.missing
        assert protocol.unknown_texts == protocol.missing
        with pytest.raises(ValueError, match=f"lacks texts that are not ours to ship: {protocol.missing[0]}"):
            check_complete(protocol)
        check_complete(complete(name))


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        ("get frame number at time 01:02", CallError.FRAME_ASKED, "Frame 1858 is at 01:02."),
        (" Get frame  number at time 62:30. ", CallError.FRAME_ASKED, "Frame 112387 is at 62:30."),
        ("get frame number at time 1e308:00", CallError.BAD_VALUE, ""),
        ("get frame number at time 1e308", CallError.FRAME_ASKED, "Frame 1000000000000000 is at 1e308."),
        ("get frame number at time 1e999", CallError.NOT_FINITE, ""),
        ("get frame number at time -5", CallError.NEGATIVE, ""),
        ("get frame number at time noon", CallError.BAD_VALUE, ""),
        ("get frame number", CallError.BAD_JSON, ""),
        (f"{'so ' * 200}get frame number at time 00:10", CallError.FRAME_ASKED, "Frame 299 is at 00:10."),
    ],
)
def test_a_question_for_the_number_of_a_frame_is_answered(said: str, kind: CallError, told: str) -> None:
    protocol, video = complete("framethinker"), replace(VIDEO, fps=29.97)
    outcome = parse_turn(f"<think>hm</think><action>{said}</action>", protocol, video_fps=video.fps)
    assert isinstance(outcome, Malformed)
    assert outcome.error == kind
    text = feedback(outcome, video, ZoomConfig.of(protocol), question=QUESTION, zooms_left=2)
    assert (told in text) if told else text.startswith(_HELP[kind])


def test_only_the_grammar_of_actions_has_a_question_for_a_frame() -> None:
    for name, ask in (("longvt", "get {time}"), ("framethinker", "get the time")):
        with pytest.raises(ValueError, match=r"call\.ask: a sentence of the grammar"):
            builtin_protocol(name).override(call={"ask": ask})


def test_a_checkpoint_has_one_protocol() -> None:
    ids = [one for name in builtin_names() for one in builtin_protocol(name).checkpoints]
    assert len(ids) == len({one.casefold() for one in ids})
    found = builtin_for("ZSGVIVO/VideoZoomer")
    assert found is not None
    assert found.name == "videozoomer"
    assert builtin_for("nobody/nothing") is None


def test_the_docs_name_every_protocol_its_checkpoints_and_the_texts_that_it_lacks() -> None:
    page = (Path(__file__).parents[1] / "docs" / "protocols.md").read_text()
    rows = dict(re.findall(r"^\| `([\w-]+)` (\|.*)$", page, re.MULTILINE))
    assert set(rows) == set(builtin_names())
    for name, row in rows.items():
        protocol = builtin_protocol(name)
        assert re.findall(r"`(\w+)`", row.rpartition(" | ")[2]) == list(protocol.missing)
        if protocol.checkpoints and name != "qwen-zero-shot":
            assert protocol.checkpoints[0] in row


# ---------------------------------------------------------------- what models write, as the public parsers read it

Span = tuple[float, ...]  # start, end, and fps or number of frames if the call says it
Read = "list[Span] | str | None"  # the calls, the answer, or nothing that can be carried out


def public_videozoomer(text: str) -> Read:
    """The calls between the tags, each one the JSON from the first brace to the next closing one, on one line."""
    bodies = re.findall(r"<video_zoom>(.*?)</video_zoom>", text, re.DOTALL)
    if not bodies:
        return _tagged(text)
    try:
        (call,) = (json.loads(one) for body in bodies for one in re.findall(r"\{.*?\}", body))
        return [(float(call["segment"][0]), float(call["segment"][1]), float(call["fps"]))]
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def public_hermes(name_key: str = "name", count_key: str | None = None) -> Callable[[str], Read]:
    """All calls between tags that are JSON; others are passed over."""

    def read(text: str) -> Read:
        found = []
        for body in re.findall(r"<tool_call>\s*(.*?)\s*</tool_call>", text, re.DOTALL):
            try:
                call = json.loads(body)
                given = call["arguments"]
                assert name_key in call
                span = (float(given["start_time"]), float(given["end_time"]))
                found.append((*span, float(given[count_key])) if count_key and count_key in given else span)
            except (ValueError, KeyError, TypeError, AssertionError):
                continue
        return found or _tagged(text)

    return read


def public_framethinker(text: str) -> Read:
    """The first action: two numbers of frames, or an answer."""
    action = re.search(r"<action>(.*?)</action>", text, re.DOTALL)
    if not action or "<think>" not in text:
        return None
    said = action[1].strip()
    if said.startswith("output answer:"):
        return said.replace("output answer:", "").strip()
    frames = re.search(r"choose frames between\s+(\d+)\s+and\s+(\d+)", said)
    return [(int(frames[1]), int(frames[2]))] if frames else None


def public_conan(text: str) -> Read:
    """The clock spans in the first clip, else the answer."""
    clip = re.search(r"<clip>(.*?)</clip>", text, re.DOTALL)
    clock = r"(\d{1,2}):(\d{2}):(\d{2})"
    spans = re.findall(rf"{clock}\s*-\s*{clock}", clip[1]) if clip else []
    seconds = [tuple(int(h) * 3600 + int(m) * 60 + int(s) for h, m, s in (x[:3], x[3:])) for x in spans]
    return [span for span in seconds if span[0] < span[1]] or _tagged(text)


def public_eva(text: str) -> Read:
    """An answer comes first; else every {"tool": …} in the first pair of tags."""
    if answer := _tagged(text):
        return answer
    tags = re.search(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL)
    found = []
    pattern = r'{\s*"tool":\s*"frame_select",\s*"(?:arguments|parameters)":\s*({.*?})\s*}'
    for given in re.findall(pattern, tags[1].strip() if tags else "", re.DOTALL):
        try:
            call = json.loads(given)
            found.append((float(call["start_time"]), float(call["end_time"]), float(call["nframes"])))
        except (ValueError, KeyError, TypeError):
            continue
    return found or None


def _tagged(text: str) -> str | None:
    found = re.search(r"<answer>\s*(.*?)\s*</answer>", text, re.DOTALL)
    return found[1] if found and found[1] else None


@dataclass(frozen=True)
class Written:
    """A turn of a model.

    Attributes:
        text: what it wrote.
        kind: good, malformed, two calls.
        differs: why vzoom reads it in another way than the public code, and means to.
    """

    text: str
    kind: str
    differs: str = ""


# Why vzoom reads some turns in another way.
TOLERANT = "vzoom reads what is plainly meant: single quotes, a code fence, a closing tag that is missing"
REFUSED_WHOLE = "the public code carries out the calls that it can read, vzoom refuses the turn and tells the model"
ONE_A_TURN = "the public code takes the first call, vzoom tells the model to make one"
ANSWER_TOO = "the public code takes one of a call and an answer, vzoom tells the model to choose"
ORDER = "the public code takes a reversed segment as it is, vzoom tells the model"


def turns_for(name: str, rng: random.Random) -> list[Written]:
    """40 turns in the manner of the protocol: 16 good, 16 malformed, 8 with two calls."""
    protocol = builtin_protocol(name)

    def times() -> tuple[float, float]:
        start = rng.choice((rng.randrange(0, 40), round(rng.uniform(0, 40), 1)))
        return start, round(start + rng.choice((rng.randrange(2, 9), rng.uniform(1, 9))), 1)

    def call(start: object, end: object) -> str:
        return WRITE[name](start, end, rng)

    def whole() -> str:
        if name == "framethinker":
            start = rng.randrange(0, 900)
            return call(start, start + rng.randrange(20, 400))
        if name == "conan":
            start = rng.randrange(0, 4000)
            return call(clock(start), clock(start + rng.randrange(1, 60)))
        return call(*times())

    def answer() -> str:
        if name == "framethinker":
            return f"<action>output answer: {rng.choice('ABCD')}</action>"
        return f"<answer>{rng.choice('ABCD')}</answer>"

    thought = "<think>I look <b>there</b>, from 3 to 5.</think>"
    good = [Written(thought + rng.choice(("", "\n", " ")) + whole(), "good") for _ in range(11)]
    good += [Written(thought + answer(), "good") for _ in range(5)]

    opening, closing = protocol.call.open, protocol.call.close
    bad = [Written(f"{thought}{opening}{body}{closing}", "malformed") for body in ("", "{", "look", "null", "{}")]
    bad += [Written(f"{thought}{opening}[3, 5]{closing}", "malformed", TOLERANT if name == "conan" else "")]
    bad += [Written(thought, "malformed"), Written("", "malformed"), Written(f"{thought}I do not know.", "malformed")]
    bad += [Written(f"{thought}{closing}{opening}", "malformed"), Written("<think>" + whole(), "malformed", TALK)]
    bad += [Written(f"{thought}{whole().replace(closing, '')}", "malformed", TOLERANT)]
    bad += [Written(f"{thought}{whole()}{answer()}", "malformed", ANSWER_TOO) for _ in range(2)]
    bad += [Written(f"{thought}{REVERSED[name]}", "malformed", "" if name == "conan" else ORDER)]
    bad += [Written(f"{thought}{ODD[name]}", "malformed", ODD_WHY.get(name, ""))]

    why = ONE_A_TURN if name not in SAME_WITH_TWO else ""
    two = [Written(f"{thought}{whole()}\n{whole()}", "two calls", why) for _ in range(5)]
    together = f"{whole()}\n{whole()}".replace(f"{closing}\n{opening}", "\n")
    two.append(Written(thought + together, "two calls", TOGETHER.get(name, "")))
    two += [Written(f"{thought}{whole()}{opening}nothing{closing}", "two calls", REFUSED_WHOLE) for _ in range(2)]
    return [*good, *bad, *two]


SAME_WITH_TWO = ("videozoomer", "paravt")  # the first refuses two calls as vzoom does, the other carries them out
FIRST = "the public code refuses two calls between one pair of tags, vzoom carries out the first"
TOGETHER = dict.fromkeys(("videozoomer", "longvt", "timesearch-r", "qwen-zero-shot"), FIRST) | {
    "paravt": TOLERANT,
    "conan": "the public code spreads its frames over both spans, vzoom tells the model to make one call",
}
TALK = "the public code looks into thoughts, vzoom takes a call in an open thought for talk, and tells the model"


def clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _crop(start: object, end: object, rng: random.Random) -> str:
    space = rng.choice(("", "\n"))
    arguments = f'{{"video_path": "v.mp4", "start_time": {start}, "end_time": {end}}}'
    return f'<tool_call>{space}{{"name": "crop_video", "arguments": {arguments}}}{space}</tool_call>'


WRITE: dict[str, Callable[[Any, Any, random.Random], str]] = {
    "videozoomer": lambda start, end, rng: (
        f'<video_zoom> {{"segment": [{start}, {end}], "fps": {rng.choice((1, 2, 0.5))}}} </video_zoom>'
    ),
    "longvt": _crop,
    "paravt": _crop,
    "framethinker": lambda start, end, rng: f"<action>choose frames between {start} and {end}</action>",
    "conan": lambda start, end, rng: f"<clip>{start}-{end}</clip>",
    "eva": lambda start, end, rng: (
        f'<tool_call>{{"tool": "frame_select", "arguments": {{"start_time": {start}, "end_time": {end}, '
        f'"nframes": {rng.randrange(2, 20)}, "resize": 0.5}}}}</tool_call>'
    ),
    "timesearch-r": lambda start, end, rng: (
        f'<tool_call>\n{{"name": "seek_video_frames", "arguments": {{"query": "a man", "start_time": {start}, '
        f'"end_time": {end}, "num_frames": {rng.randrange(1, 9)}}}}}\n</tool_call>'
    ),
    "qwen-zero-shot": lambda start, end, rng: (
        f'<tool_call>\n{{"name": "zoom_video", "arguments": {{"start_time": {start}, "end_time": {end}, '
        f'"fps": {rng.choice((1, 2))}}}}}\n</tool_call>'
    ),
}
REVERSED = {name: write("00:00:09", "00:00:05", random.Random(1)) for name, write in WRITE.items() if name == "conan"}
REVERSED |= {name: write(900, 5, random.Random(1)) for name, write in WRITE.items() if name != "conan"}
# One more of each: a value of another kind, or a spelling that others have seen.
ODD = {name: write("null", "true", random.Random(1)) for name, write in WRITE.items()}
ODD["videozoomer"] = "<video_zoom>{'segment': [3, 5], 'fps': 2}</video_zoom>"
ODD_WHY = {"videozoomer": TOLERANT}
PUBLIC: dict[str, Callable[[str], Read]] = {
    "videozoomer": public_videozoomer,
    "longvt": public_hermes(),
    "paravt": public_hermes(),
    "framethinker": public_framethinker,
    "conan": public_conan,
    "eva": public_eva,
    "timesearch-r": public_hermes(count_key="num_frames"),
    "qwen-zero-shot": public_hermes(count_key="fps"),
}


def ours(text: str, protocol: Protocol) -> Read:
    """What vzoom reads, in the terms of the public parsers."""
    rate = 25.0
    outcome = parse_turn(text, protocol, video_fps=rate)
    if isinstance(outcome, Answer):
        return outcome.text
    found: list[Span] = []
    for call in calls_of(outcome):
        span: Span = (call.start_seconds, call.end_seconds)
        if protocol.call.unit == "frames":
            span = (round(call.start_seconds * rate), round(call.end_seconds * rate))
        if "num_frames" in protocol.call.arguments:
            assert call.num_frames is not None
            span = (*span, float(call.num_frames))
        elif "fps" in protocol.call.arguments:
            span = (*span, call.fps)
        found.append(span)
    return found or None


@pytest.mark.parametrize("name", PUBLISHED)
def test_forty_turns_are_read_as_the_public_parser_reads_them(name: str) -> None:
    protocol = builtin_protocol(name)
    written = turns_for(name, random.Random(name))
    assert len(written) == 40
    num_calls = 0
    for turn in written:
        public, own = PUBLIC[name](turn.text), ours(turn.text, protocol)
        num_calls += isinstance(own, list)
        if turn.differs:
            assert own != public, f"{turn.text!r} is read in the same way: it is no difference"
        else:
            assert own == public, turn.text
        if turn.kind == "good":
            assert own
            assert not turn.differs
    assert num_calls >= 11 + (5 if protocol.call.per_turn > 1 else 0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_refused_is_told_with_its_kind(name: str) -> None:
    protocol = builtin_protocol(name)
    outcomes = [parse_turn(turn.text, protocol, video_fps=25.0) for turn in turns_for(name, random.Random(name))]
    kinds = {outcome.error for outcome in outcomes if isinstance(outcome, Malformed)}
    assert {CallError.EMPTY, CallError.CALL_AND_ANSWER, CallError.REVERSED} <= kinds
    assert (CallError.TWO_CALLS in kinds) == (protocol.call.per_turn == 1)
    assert all(math.isfinite(call.start_seconds + call.fps) for one in outcomes for call in calls_of(one))
