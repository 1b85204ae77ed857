from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocols import BRIEF, VZOOM

from vzoom.config import ZoomConfig
from vzoom.protocol import Protocol, TurnScanner, parse, render
from vzoom.protocol.grammars import scanner
from vzoom.protocol.render import ImagePart, TextPart
from vzoom.types import Answer, CallError, Malformed, TurnOutcome, VideoInfo, ZoomCall

VIDEO = VideoInfo("v.mp4", duration_seconds=64.0, fps=8.0, width=112, height=112)
CONFIG = ZoomConfig()


def parse_turn(text: str) -> TurnOutcome:
    return parse.parse_turn(text, VZOOM, video_fps=VIDEO.fps)


def cut_turn(text: str) -> str | None:
    return scanner.cut_turn(text, VZOOM)


def partial_call(text: str, max_frames: int) -> ZoomCall | None:
    """What the session guesses once `text` is written."""
    turn = TurnScanner(VZOOM)
    turn.read(text)
    if turn.call_start is None:
        return None
    return parse.partial_call(text[turn.call_start :], VZOOM, video_fps=VIDEO.fps, max_frames=max_frames)


def call(body: str) -> str:
    return f"<think>look</think><video_zoom>{body}</video_zoom>"


@pytest.mark.parametrize(
    "body",
    [
        '{"segment": [3, 5.5], "fps": 2}',
        ' \n{"segment":[3,5.5],"fps":2}\n',
        '```json\n{"segment": [3, 5.5], "fps": 2}\n```',
        "{'segment': (3, 5.5), 'fps': 2,}",
        '{"segment": ["3s", "5.5 seconds"], "fps": "2 fps"}',
        '{"segment": ["0:03", "00:00:05.5"], "fps": 2.0}',
        '{"fps": 2, "segment": [3, 5.5], "why": "to see"}',
    ],
)
def test_what_models_really_write_is_read(body: str) -> None:
    assert parse_turn(call(body)) == ZoomCall(3.0, 5.5, 2.0)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (call("segment 3 to 5"), CallError.BAD_JSON),
        (call(""), CallError.BAD_JSON),
        (call("[3, 5]"), CallError.BAD_JSON),
        (call('{"segment": [3, 5]}'), CallError.MISSING_KEY),
        (call('{"fps": 2}'), CallError.MISSING_KEY),
        (call('{"segment": [3], "fps": 2}'), CallError.BAD_VALUE),
        (call('{"segment": [3, null], "fps": 2}'), CallError.BAD_VALUE),
        (call('{"segment": [3, true], "fps": 2}'), CallError.BAD_VALUE),
        (call('{"segment": "3-5", "fps": 2}'), CallError.BAD_VALUE),
        (call('{"segment": [NaN, 5], "fps": 2}'), CallError.NOT_FINITE),
        (call('{"segment": [3, Infinity], "fps": 2}'), CallError.NOT_FINITE),
        (call('{"segment": [3, 1e999], "fps": 2}'), CallError.NOT_FINITE),
        (call('{"segment": [3, 5], "fps": "nan"}'), CallError.NOT_FINITE),
        (call('{"segment": [-1, 5], "fps": 2}'), CallError.NEGATIVE),
        (call('{"segment": [3, 5], "fps": -2}'), CallError.NEGATIVE),
        (call('{"segment": [5, 3], "fps": 2}'), CallError.REVERSED),
        (call('{"segment": [5, 5], "fps": 2}'), CallError.REVERSED),
        (call('{"segment": [3, 5], "fps": 0}'), CallError.ZERO_FRAMES),
        ("<think>a</think><video_zoom>{</video_zoom><video_zoom>{}</video_zoom>", CallError.TWO_CALLS),
        (call('{"segment": [3, 5], "fps": 2}') + "<answer>A</answer>", CallError.CALL_AND_ANSWER),
        ('<think>a</think><video_zoom>{"segment": [3', CallError.UNCLOSED),
        ("<think>I am sure it is B", CallError.EMPTY),
        ("<answer>  </answer>", CallError.EMPTY),
        ("", CallError.EMPTY),
    ],
)
def test_every_malformed_turn_is_a_typed_value(text: str, error: CallError) -> None:
    got = parse_turn(text)
    assert isinstance(got, Malformed)
    assert got.error is error
    assert str(error) in render.feedback(got, VIDEO, CONFIG, question="", zooms_left=1)


def test_every_error_has_help_for_the_model() -> None:
    assert set(render._HELP) == set(CallError)


def test_a_whole_call_without_its_closing_tag_is_carried_out() -> None:
    assert parse_turn('<video_zoom>{"segment": [3, 5], "fps": 2}') == ZoomCall(3, 5, 2)


def test_tags_in_a_closed_thought_are_talk() -> None:
    text = "<think>I could write <video_zoom> or <answer>A</answer></think><answer> B </answer>"
    assert parse_turn(text) == Answer("B")


def test_an_unclosed_answer_is_an_answer() -> None:
    assert parse_turn("<think>x</think><answer>C") == Answer("C")


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("<think>could be <answer>C</answer>? No, B</think>", CallError.EMPTY),
        ("<think>could be <answer>C</answer>? No, B</think><answer>B</answer>", Answer("B")),
        ("<think>could be <answer>C</answer>", CallError.UNCLOSED),
        ('<think>look: <video_zoom>{"segment": [3, 5], "fps": 2}</video_zoom>', CallError.UNCLOSED),
        ("chatter <think>a</think> more <think>so <answer>C</answer>", CallError.UNCLOSED),
        ("<think>a <think>b</think><answer>B</answer>", Answer("B")),
        ("<answer>it reads <think> on the wall</answer>", Answer("it reads <think> on the wall")),
        ("no thought opened</think><answer>B</answer>", Answer("B")),
    ],
)
def test_tags_in_an_open_thought_are_talk(text: str, outcome: Answer | CallError) -> None:
    got = parse_turn(text)
    assert (got.error if isinstance(got, Malformed) else got) == outcome
    assert partial_call(text, 16) is None


@pytest.mark.parametrize(
    ("turn", "rest"),
    [
        ("<think>could be <answer>C</answer>? No</think><answer>B</answer>", " and more"),
        ('<video_zoom>{"segment": [3, 5], "fps": 2}</video_zoom>', "<answer>B</answer>"),
        ("<think>a</think></answer>", ""),
        ("<answer>it reads <think> on the wall</answer>", "</think>"),
    ],
)
def test_a_turn_ends_at_its_first_closing_tag_outside_thoughts(turn: str, rest: str) -> None:
    assert cut_turn(turn + rest) == turn
    assert cut_turn(turn[:-1]) is None


def test_a_turn_of_open_thoughts_has_no_end_and_is_read_in_linear_time() -> None:
    text = "<think>" + "<answer>C</answer>" * 100_000
    assert cut_turn(text) is None
    assert parse_turn(text).error is CallError.UNCLOSED  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" B \n", "B"),
        ("<think>It is red.</think>\nThe answer is B.", "The answer is B."),
        ("<think>It is B", None),
        ("<think>It is B</think>", None),
        ("<answer> </answer>", None),
        ("B</answer>", None),
        ("<think>could be <answer>C</answer></think>B", "B"),
        ("", None),
    ],
)
def test_what_is_said_without_tags(text: str, said: str | None) -> None:
    assert parse.untagged_answer(text, VZOOM) == said


times = st.integers(0, 10**6).map(lambda x: x / 100)


@given(times, times, st.integers(1, 3000).map(lambda x: x / 100), st.text(alphabet="ab {}[]\n\"'é"))
def test_rendering_is_read_back(start: float, length: float, fps: float, thought: str) -> None:
    asked = ZoomCall(start, round(start + length + 0.01, 2), fps)
    got = parse_turn(render.render_turn(thought, asked, VZOOM))
    assert isinstance(got, ZoomCall)
    for a, b in zip((got.start_seconds, got.end_seconds, got.fps), (start, asked.end_seconds, fps), strict=True):
        assert math.isclose(a, b, abs_tol=1e-9)


@given(st.text())
def test_nothing_that_a_model_writes_raises(text: str) -> None:
    for turn in (text, call(text), f"<answer>{text}", f"<video_zoom>{{{text}}}"):
        assert isinstance(parse_turn(turn), ZoomCall | Answer | Malformed)
        assert isinstance(partial_call(turn, 16), ZoomCall | None)


@pytest.mark.parametrize("protocol", [VZOOM, BRIEF])
def test_prompt_tells_duration_times_and_question(protocol: Protocol) -> None:
    parts = render.prompt("Who?", VIDEO, [0.0, 2.5], ZoomConfig(protocol=protocol))
    text = "".join(p.text if isinstance(p, TextPart) else "[image]" for p in parts)
    assert "64.00s" in text or "64.00 seconds" in text
    assert text.index("0.00s") < text.index("[image]") < text.index("2.50s") < text.index("Who?")
    assert [p.index for p in parts if isinstance(p, ImagePart)] == [0, 1]
    assert text.endswith("<|im_start|>assistant\n")
    assert [p.trusted for p in parts if isinstance(p, TextPart) and p.text == "Who?"] == [False]


def _tool_text(call: ZoomCall, zooms_left: int = 1) -> str:
    parts = render.tool_turn([(call, [60.0])], VIDEO, CONFIG, question="", zooms_left=zooms_left)
    return "".join(p.text for p in parts if isinstance(p, TextPart))


def test_last_round_says_answer_now() -> None:
    assert "answer now" in _tool_text(ZoomCall(60, 61, 1), zooms_left=0)
    assert "at most 2 more" in _tool_text(ZoomCall(60, 61, 1), zooms_left=2)


def test_an_end_moved_to_the_videos_end_is_told() -> None:
    moved = _tool_text(ZoomCall(60, 70, 2))
    assert "1 frames from 60.00s to 64.00s: The video ends at 64.00s.\n" in moved
    assert "ends" not in _tool_text(ZoomCall(60, 64, 2))


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("<think><video_zoom>", None),
        ('<think>no <video_zoom>{"segment": [8, 12]</think>', None),
        ('<video_zoom>{"segment": [8, 1', None),
        ('<video_zoom>{"segment": [8, 12]', ZoomCall(8, 12, 4)),
        ('<video_zoom>{"segment": [8, 12], "fps": 2', ZoomCall(8, 12, 4)),  # it may become 24
        ('<video_zoom>{"segment": [8, 12], "fps": 2}', ZoomCall(8, 12, 2)),
        ("<video_zoom>{'fps': '2', 'segment': ('1:05', '70s')", ZoomCall(65, 70, 2)),
        ('<video_zoom>{"segment": [12, 8]', None),
        ('<video_zoom>{"segment": [a, 8]', None),
        (f'<video_zoom>{{"segment": [8, 12], "fps": {"9" * 400}}}', ZoomCall(8, 12, 4)),
        (f'<video_zoom>{{"segment": [8, {"9" * 400}]', None),
        ('<video_zoom>{"segment": [8, 12], "fps": 0}', ZoomCall(8, 12, 4)),
    ],
)
def test_a_call_is_guessed_once_its_segment_is_there(text: str, call: ZoomCall | None) -> None:
    assert partial_call(text, max_frames=16) == call
