"""The one rule of form that SFT's filter and RL's reward share."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocols import TAGS, VZOOM

from vzoom.protocol import render, well_formed
from vzoom.types import Answer, CallError, Malformed, ZoomCall

THINK_CLOSE = VZOOM.thought.close
strict_action = partial(well_formed.strict_action, protocol=VZOOM)
is_well_formed = partial(well_formed.is_well_formed, protocol=VZOOM)
render_turn = partial(render.render_turn, protocol=VZOOM)
CALL = ZoomCall(4, 6, 2)
ZOOM = '<think>See.</think><video_zoom>{"segment": [4, 6], "fps": 2}</video_zoom>'
DONE = "<think>a</think><answer>B</answer>"


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (ZOOM, CALL),
        (DONE, Answer("B")),
        ("<think></think><answer>B</answer>", Answer("B")),
        (f" \n{DONE}\n\n", Answer("B")),
        ("<think>a</think>\n <answer>\nB\n</answer>", Answer("B")),
        (ZOOM.replace('"', "'"), CALL),  # the parser's tolerance of what is inside the tags holds here, too
        (ZOOM.replace("{", "```json\n{").replace("}", "}\n```"), CALL),
        ("<think>I may <answer> or <video_zoom></think><answer>B</answer>", Answer("B")),  # talk about tags
        ("<think>A <think> is a thought</think><answer>B</answer>", Answer("B")),
        ("<think>a <answer>A</answer></think><answer>B</answer>", Answer("B")),
        ("<think>a</think><answer>2 < 3 > 1</answer>", Answer("2 < 3 > 1")),
    ],
)
def test_a_turn_that_keeps_the_grammar(text: str, action: ZoomCall | Answer) -> None:
    assert strict_action(text) == action
    later = [text] if isinstance(action, Answer) else [text, DONE]
    assert is_well_formed(later, [None] * len(later))


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think> chatter <answer>B</answer>",  # once paid by RL
        "<think>a</think><answer>B",  # once learned by SFT
        "",
        "B",
        "<answer>B</answer>",
        "<think>a</think>",
        "<think>a</think>B",
        "a</think><answer>B</answer>",
        "<think>a<answer>B</answer>",
        "Well: " + DONE,
        DONE + ".",
        DONE + DONE,
        DONE + "<answer>B</answer>",
        "<think>a</think><think>b</think><answer>B</answer>",
        "<think>a</think>b</think><answer>B</answer>",
        "<think>a</think><answer></answer>",
        "<think>a</think><answer> </answer>",
        "<think>a</think><answer>A<answer>B</answer>",
        "<think>a</think><answer>A</answer>B</answer>",
        "<think>a</think><answer>A</think></answer>",
        "<think>a</think><answer><think>A</answer>",
        "<think>a</think><answer>B</video_zoom>",
        "<think>a</think></answer>",
        "<think>a</think><answer>",
        "<THINK>a</THINK><answer>B</answer>",
        ZOOM.removesuffix("</video_zoom>"),
        ZOOM.removesuffix("}</video_zoom>") + "</video_zoom>",
        ZOOM.replace("</think>", "</think>So: "),
        ZOOM.replace("[4, 6]", "[6, 4]"),
        ZOOM.replace('"fps": 2', '"fps": 0'),
        ZOOM + ZOOM.partition("</think>")[2],
        ZOOM + "<answer>B</answer>",
        ZOOM.replace("</video_zoom>", "</answer>"),
    ],
)
def test_a_turn_that_breaks_the_grammar(text: str) -> None:
    assert strict_action(text) is None
    assert not is_well_formed([text], [None])
    assert not is_well_formed([text, DONE], [None, None])


def test_a_conversation_is_calls_and_then_an_answer() -> None:
    unreadable = Malformed(CallError.UNREADABLE, "a hole")
    assert is_well_formed([ZOOM, ZOOM, DONE], [CALL, unreadable, Answer("B")])
    assert not is_well_formed([], [])
    assert not is_well_formed([ZOOM], [CALL])
    assert not is_well_formed([DONE, DONE], [Answer("B"), Answer("B")])
    assert not is_well_formed([DONE, ZOOM], [Answer("B"), CALL])
    with pytest.raises(ValueError, match="shorter"):
        is_well_formed([ZOOM, DONE], [CALL])


@pytest.mark.parametrize("error", sorted(set(CallError) - {CallError.UNREADABLE, CallError.FRAME_ASKED}))
def test_a_call_that_was_refused_for_what_it_asks_is_not_well_formed(error: CallError) -> None:
    assert not is_well_formed([ZOOM, DONE], [Malformed(error, ""), Answer("B")])


_text = st.text() | st.lists(st.sampled_from((*TAGS, "a", " ", "<", ">", "/", "\n"))).map("".join)
_hundredths = st.integers(0, 10**7).map(lambda n: n / 100)
_calls = st.tuples(_hundredths, st.integers(1, 10**6), st.integers(1, 10**5)).map(
    lambda c: ZoomCall(c[0], round(c[0] + c[1] / 100, 2), c[2] / 100)
)
_answers = _text.map(str.strip).filter(lambda t: t and not any(tag in t for tag in TAGS)).map(Answer)


@given(_text.filter(lambda t: THINK_CLOSE not in t), _calls | _answers)
def test_what_is_rendered_is_well_formed_and_read_back(thought: str, outcome: ZoomCall | Answer) -> None:
    turn = render_turn(thought, outcome)
    assert strict_action(turn) == outcome
    later = [turn] if isinstance(outcome, Answer) else [turn, DONE]
    assert is_well_formed(later, [outcome, None][: len(later)])


@given(_text, st.builds(Answer, _text) | st.builds(ZoomCall, st.floats(), st.floats(), st.floats()))
def test_rendering_gives_a_well_formed_turn_or_refuses(thought: str, outcome: ZoomCall | Answer) -> None:
    try:
        turn = render_turn(thought, outcome)
    except ValueError:
        return
    assert isinstance(strict_action(turn), type(outcome))


@given(_text.filter(lambda t: THINK_CLOSE not in t), _calls | _answers, st.text().filter(str.strip))
def test_nothing_may_be_added_to_a_well_formed_turn(thought: str, outcome: ZoomCall | Answer, chatter: str) -> None:
    turn = render_turn(thought, outcome)
    head, closed, action = turn.partition(THINK_CLOSE)
    for wrong in (chatter + turn, turn + chatter, head + closed + chatter + action):
        assert strict_action(wrong) is None
