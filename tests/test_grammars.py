"""Every grammar: what is read, what is written, when a turn ends; and sessions in protocols of other forms."""

from __future__ import annotations

import numpy as np
import pytest
from fuzz.turns import PieceCodec, protocols
from protocols import VZOOM

from vzoom.config import ZoomConfig
from vzoom.engine import Done, NeedFrames, NeedTokens, Session
from vzoom.protocol import (
    Protocol,
    TurnScanner,
    Vocabulary,
    cut_turn,
    is_well_formed,
    parse_turn,
    partial_call,
    render_turn,
    strict_action,
)
from vzoom.types import Answer, CallError, Clip, Malformed, TurnOutcome, VideoInfo, ZoomCall, ZoomCalls

PROTOCOLS = {one.name: one for one in protocols()}
VIDEO = VideoInfo("v.mp4", 64.0, 8.0, 8, 8)


def read(name: str, text: str) -> TurnOutcome | CallError:
    outcome = parse_turn(text, PROTOCOLS[name], video_fps=VIDEO.fps)
    return outcome.error if isinstance(outcome, Malformed) else outcome


_LONGVT = (
    '<tool_call>{"name": "crop_video", "arguments": {"path": "v", "start_time": 3, "end_time": "5.5"}}</tool_call>'
)
_EVA = '<tool_call>{"tool": "frame_select", "arguments": {"start_time": 3, "end_time": 5, "nframes": 4}}</tool_call>'


@pytest.mark.parametrize(
    ("name", "text", "outcome"),
    [
        # VideoZoomer: spaces inside the tags, the first {…} in them, and the spellings that others report.
        ("videozoomer", '<video_zoom> {"segment": [3, 5.5], "fps": 2} </video_zoom>', ZoomCall(3, 5.5, 2)),
        ("videozoomer", '<video_zoom>so: {"segment": [3, 5.5], "fps": 2} ok {}</video_zoom>', ZoomCall(3, 5.5, 2)),
        ("videozoomer", '<video_zoom>{"start_time": 3, "end_time": 5.5, "fps": 2}</video_zoom>', ZoomCall(3, 5.5, 2)),
        ("videozoomer", "<video_zoom>start=3.0 end=5.5 fps=2</video_zoom>", ZoomCall(3, 5.5, 2)),
        ("videozoomer", '<video_zoom>{"start_time": 3, "end_time": 5.5}</video_zoom>', CallError.MISSING_KEY),
        ("videozoomer", "<think>x</think><answer>It is \\boxed{\\text{B}}.</answer>", Answer("\\text{B}")),
        ("videozoomer", "<think>x</think><answer>B</answer>", Answer("B")),
        # Hermes
        ("longvt", _LONGVT, ZoomCall(3, 5.5, 1.0)),  # at the protocol's own rate
        ("longvt", _LONGVT.replace("crop_video", "crop_image"), CallError.BAD_VALUE),
        ("longvt", _LONGVT.replace('"name"', '"tool"'), CallError.MISSING_KEY),
        ("longvt", _LONGVT.replace('{"path"', '"{\\"path\\"').replace("}}<", "}<"), CallError.BAD_JSON),
        ("longvt", _LONGVT + _LONGVT, CallError.TWO_CALLS),
        ("paravt", _LONGVT, ZoomCall(3, 5.5, 1.0)),
        ("paravt", f"{_LONGVT}\n{_LONGVT.replace('3,', '4,')}", ZoomCalls((ZoomCall(3, 5.5, 1), ZoomCall(4, 5.5, 1)))),
        ("paravt", _LONGVT * 6, CallError.TWO_CALLS),
        ("paravt", _LONGVT + _LONGVT.replace("3,", "9,"), CallError.REVERSED),  # one that is wrong refuses both
        ("eva", _EVA, ZoomCall(3, 5, 2.0, 4)),
        ("eva", _EVA.replace("4}", "0}"), CallError.ZERO_FRAMES),
        ("spoken", "It is B.", Answer("It is B.")),
        ("spoken", _LONGVT, ZoomCall(3, 5.5, 1.0)),
        # A sentence with numbers of frames
        ("framethinker", "<action>choose frames between 24 and 80</action>", ZoomCall(3, 10, 12 / 7, 12)),
        ("framethinker", "<action> Choose  frames between 24 and 80. </action>", ZoomCall(3, 10, 12 / 7, 12)),
        ("framethinker", "<action>choose frames between a and 80</action>", CallError.BAD_VALUE),
        ("framethinker", "<action>look closer</action>", CallError.BAD_JSON),
        ("framethinker", "<think>x</think><action>output answer: B</action>", Answer("B")),
        # A clock span
        ("conan", "<think>x</think><clip>00:00:05-00:00:10</clip>", ZoomCall(5, 10, 8 / 5, 8)),
        ("conan", "<clip>0:05 - 0:10</clip>", ZoomCall(5, 10, 8 / 5, 8)),
        ("conan", "<clip>00:00:10-00:00:05</clip>", CallError.REVERSED),
        # \boxed{}
        ("boxed", "<think>\\boxed{C}</think>\\boxed{[3, 5]}", ZoomCall(3, 5, 8, 16)),
        ("boxed", "<think>x</think>so \\boxed{\\text{B}}", Answer("\\text{B}")),
        ("boxed", "\\boxed{[3, 5]} or \\boxed{B}", CallError.CALL_AND_ANSWER),
    ],
)
def test_every_grammar_is_read(name: str, text: str, outcome: TurnOutcome | CallError) -> None:
    assert read(name, text) == outcome


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda one: one.name)
def test_what_is_written_is_read_back_and_ends_the_turn(protocol: Protocol) -> None:
    asked = ZoomCall(4, 12, 2, 16 if "num_frames" in protocol.call.arguments else None)
    for outcome in (asked, Answer("B")):
        text = render_turn("look <answer>", outcome, protocol, video_fps=8.0)
        got = parse_turn(text, protocol, video_fps=8.0)
        assert type(got) is type(outcome)
        assert strict_action(text, protocol, video_fps=8.0) == got
        if isinstance(got, ZoomCall):
            assert (got.start_seconds, got.end_seconds) == (4, 12)
        else:
            assert got == outcome
        ends = cut_turn(text, protocol)
        assert ends in (None, text)
        if protocol.call.per_turn == 1 and protocol.call.grammar in ("tags_json", "hermes"):
            assert ends == (None if outcome == Answer("B") and protocol.answer.form == "text" else text)
    turns = [render_turn("a", one, protocol, video_fps=8.0) for one in (asked, Answer("B"))]
    assert is_well_formed(turns, [None, None], protocol)


@pytest.mark.parametrize("name", ["vzoom", "videozoomer", "longvt", "eva", "conan", "framethinker"])
def test_a_call_is_guessed_before_it_ends(name: str) -> None:
    protocol = PROTOCOLS[name]
    asked = ZoomCall(4, 12, 2, 16 if name == "eva" else None)
    text = render_turn("look", asked, protocol, video_fps=8.0)
    scanner, guesses = TurnScanner(protocol), []
    for end in range(1, len(text)):
        scanner.read(text[:end])
        if scanner.call_start is not None:
            guess = partial_call(text[scanner.call_start : end], protocol, video_fps=8.0, max_frames=16)
            guesses += [guess] if guess else []
    assert guesses, "no guess"
    assert {(guess.start_seconds, guess.end_seconds) for guess in guesses} == {(4.0, 12.0)}
    if name in ("vzoom", "videozoomer", "longvt"):
        assert guesses[-1] == parse_turn(text, protocol, video_fps=8.0)


# ---------------------------------------------------------------- sessions


class Talk:
    """A session whose model writes what it is told; frames are blank."""

    def __init__(self, protocol: Protocol, **limits: int) -> None:
        self.codec = PieceCodec()
        vocabulary = Vocabulary(self.codec, 0, 1, frozenset({1}), merge=2, grid_hw=lambda h, w, config: (2, 2))
        self.session = Session("Who?", VIDEO, vocabulary, ZoomConfig.of(protocol, **limits))
        self.fetch()

    @property
    def fed(self) -> str:
        """What the next feed holds, frames as #."""
        action = self.session.action
        assert isinstance(action, NeedTokens)
        return "".join("#" if id == 0 else self.codec.pieces[id] for id in action.span.ids)

    def fetch(self) -> None:
        if isinstance(need := self.session.action, NeedFrames):
            count = len(need.timestamps)
            frames = np.zeros((count, 8, 8, 3), np.uint8)
            self.session.splice(Clip(frames, need.timestamps, tuple(range(count)), (False,) * count), need.per_clip)

    def write(self, text: str) -> None:
        self.session.accept(self.codec.token(text), 0.0)
        if isinstance(self.session.action, NeedTokens) and not self.session.action.opens_turn:
            self.session.accept(1, 0.0)
        self.fetch()


MANY = PROTOCOLS["paravt"].override(
    name="many",
    turns={
        "system": "",
        "opening": "{frames}{question}",
        "tool": "{clips}{budget}",
        "last_tool": None,
        "clip": "<tool_response>{start:.0f}-{end:.0f}{note}:{frames}</tool_response>",
        "end_note": "!",
        "clip_separator": "+",
        "budget": "[{zooms_left}]",
        "last_budget": "[last]",
    },
    frame={"label": "<{index}@{time:.1f}>", "first_index": 1, "index_restarts": "never"},
    glance={"rule": "exact", "fps": 0.05, "max_frames": 2},
    zoom={"rule": "exact", "fps": 1.0, "max_frames": 8},
    limits={"max_zooms": 2},
)


def _call(start: float, end: float) -> str:
    return f'<tool_call>{{"name": "crop_video", "arguments": {{"start_time": {start}, "end_time": {end}}}}}</tool_call>'


def test_several_calls_come_back_as_one_feed_and_share_budgets() -> None:
    talk = Talk(MANY)
    assert talk.fed.startswith("<|im_start|>user\n<1@0.0><|vision_start|>#<|vision_end|><2@32.0>")
    talk.write(f"<think>x</think>{_call(4, 6)}\n{_call(62, 70)}")
    clips = "<|vision_start|>#<|vision_end|>"
    assert talk.fed == (
        "<|im_end|>\n<|im_start|>user\n"
        f"<tool_response>4-6:<3@4.0>{clips}<4@5.0>{clips}</tool_response>+"
        f"<tool_response>62-64!:<5@62.0>{clips}<6@63.0>{clips}</tool_response>[1]<|im_end|>\n<|im_start|>assistant\n"
    )
    turn = talk.session.trajectory.turns[0]
    assert isinstance(turn.outcome, ZoomCalls)
    assert turn.clips == [(ZoomCall(4, 6, 1), (4.0, 5.0)), (ZoomCall(62, 70, 1), (62.0, 63.0))]
    assert talk.session.trajectory.zoom_spans == [(4, 6), (62, 64)]
    zooms = talk.session.trajectory.to_json()["zooms"]
    assert [(zoom["start_seconds"], zoom["end_seconds"], zoom["frames"]) for zoom in zooms] == [(4, 6, 2), (62, 64, 2)]

    short = Talk(MANY, max_frames=2 + 3)  # either clip would fit, both do not
    short.write(f"<think>x</think>{_call(4, 6)}{_call(10, 12)}")
    assert "does not fit" in short.fed
    assert "#" not in short.fed
    assert short.session.trajectory.zooms == []
    wrong = Talk(MANY)
    wrong.write(f"<think>x</think>{_call(4, 6)}{_call(90, 92)}")
    assert "behind the end" in wrong.fed
    assert wrong.session.trajectory.zooms == []


def test_a_protocol_without_a_glance_begins_with_words() -> None:
    talk = Talk(PROTOCOLS["eva"])
    assert isinstance(talk.session.action, NeedTokens)
    assert talk.session.action.clip is None
    assert "#" not in talk.fed
    talk.write(_EVA)
    assert talk.fed.startswith("<|im_end|>\n<|im_start|>tool\n<tool_response>Frame 0 at [00:03]: <|vision_start|>#")
    talk.write("<answer>B</answer>")
    assert talk.session.trajectory.answer == "B"
    assert isinstance(talk.session.action, Done)


def test_what_follows_a_stop_is_the_protocols() -> None:
    call = '<think>x</think><video_zoom>{"segment": [4, 6], "fps": 1}</video_zoom>'
    stopped = Talk(VZOOM.override(name="bare", turns={"after_stop": "<|im_end|>"}))
    stopped.write(call)
    assert stopped.fed.startswith(f"{call}<|im_end|><|im_start|>user\n")
    ended = Talk(VZOOM)
    ended.write("<think>x</think>nothing")  # and its own end of turn, which is not added again
    assert ended.fed.startswith("<|im_end|>\n<|im_start|>user\n<tool_response>\nError (empty)"), ended.fed


def test_a_call_that_is_too_long_is_refused_unread() -> None:
    body = '{"segment": [4, 6], "fps": 1}'
    for padding, outcome in ((4096, ZoomCall(4, 6, 1)), (4097, None)):
        text = f"<video_zoom>{body:<{padding}}</video_zoom>"
        got = parse_turn(text, VZOOM, video_fps=8.0)
        refused = Malformed(CallError.BAD_JSON, f"a call of {padding} characters, the limit is 4096")
        assert got == (outcome or refused)


@pytest.mark.parametrize(
    "value", ['"' + "9" * 400 + ':00:00"', '"' + "9" * 3000 + '"', "9" * 400, "1e999", "NaN", '"1:' + "9" * 400 + '"']
)
def test_no_number_is_too_large(value: str) -> None:
    for body in (f'{{"segment": [{value}, "2"], "fps": 1}}', f'{{"segment": [1, {value}], "fps": 1}}'):
        outcome = parse_turn(f"<video_zoom>{body}</video_zoom>", VZOOM, video_fps=8.0)
        assert isinstance(outcome, Malformed)
        assert outcome.error is CallError.NOT_FINITE
