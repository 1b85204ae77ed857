"""Rewards of conversations that the real session led: the model's text is scripted, frames are blank."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from checkpoints import token_id, write_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from protocols import VZOOM

from vzoom.config import ZoomConfig
from vzoom.engine.session import NeedFrames, NeedTokens, Session
from vzoom.protocol.judging import JudgeFailed, Reference, is_right
from vzoom.protocol.text_codec import TextCodec
from vzoom.protocol.vocabulary import Vocabulary
from vzoom.train.rl.reward import Reward, RewardConfig, ZoomRate, keeps_format, score, tool_reward
from vzoom.types import Clip, StopReason, Trajectory, Turn, VideoInfo

Converse = Callable[..., Trajectory]
PAPER = RewardConfig()
SHAPES = Reference("Which shape?", "B", ("moon", "ring", "bolt", "cross"))
OPEN = Reference("What happens?", "a dog jumps")
RIGHT = "<think>It is the ring.</think><answer>B</answer>"
WRONG = "<think>It is the moon.</think><answer>A</answer>"


def zoom(start: float = 4, end: float = 8, fps: float = 2) -> str:
    return f'<think>look</think><video_zoom>{{"segment": [{start}, {end}], "fps": {fps}}}</video_zoom>'


@pytest.fixture(scope="module")
def converse(tmp_path_factory: pytest.TempPathFactory) -> Converse:
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    end = token_id("<|im_end|>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    vocabulary = Vocabulary(
        codec=TextCodec(tokenizer.backend_tokenizer),
        image_token_id=token_id("<|image_pad|>"),
        end_of_turn_id=end,
        end_ids=frozenset({end}),
        merge=2,
        grid_hw=lambda height, width, config: (height // 14, width // 14),
    )

    def talk(*turns: str, unreadable: bool = False, **config: int) -> Trajectory:
        """The trajectory in which the model writes `turns`, each ended where it does not end itself."""
        session = Session("Who?", VideoInfo("v.mp4", 64.0, 8.0, 56, 56), vocabulary, ZoomConfig(**config))
        script = [[*vocabulary.codec.encode(turn), end] for turn in turns]
        while isinstance(session.action, NeedTokens | NeedFrames):
            if isinstance(session.action, NeedFrames):
                times = session.action.timestamps
                if unreadable and session.action.call:
                    session.unreadable("a hole")
                    continue
                frames = np.zeros((len(times), 56, 56, 3), np.uint8)
                session.splice(Clip(frames, times, tuple(range(len(times))), (False,) * len(times)))
                continue
            if session.action.opens_turn:
                if not script:
                    session.cancel()
                    break
                tokens = iter(script.pop(0))
            session.accept(next(tokens), -1.0)
        return session.trajectory

    return talk


def rewarded(trajectory: Trajectory, **settings: object) -> Reward:
    found = score(trajectory, SHAPES, VZOOM, zoom_rate=0.2, config=replace(PAPER, **settings))
    assert isinstance(found, Reward)
    return found


def test_the_sum_by_hand(converse: Converse) -> None:
    assert rewarded(converse(zoom(), RIGHT)) == Reward(1.0, 1.0, 0.5, 1.5)
    assert rewarded(converse(RIGHT)) == Reward(1.0, 1.0, 0.0, 1.0)
    assert rewarded(converse(zoom(), zoom(10, 12), WRONG)) == Reward(0.0, 1.0, 0.0, 0.1)
    assert rewarded(converse("<answer>(b)</answer>")) == Reward(1.0, 0.0, 0.0, 0.9)
    assert rewarded(converse("I give up")) == Reward(0.0, 0.0, 0.0, 0.0)
    assert rewarded(converse(zoom(), RIGHT), tool_bonus=0.0).total == 1.0
    other = rewarded(converse(zoom(), RIGHT), accuracy_weight=0.5, format_weight=0.25, tool_bonus=2.0)
    assert other == Reward(1.0, 1.0, 2.0, 2.75)


def test_a_zoom_that_brought_nothing_is_not_paid(converse: Converse) -> None:
    refused = converse(zoom(8, 4), RIGHT)
    assert refused.stop_reason is StopReason.ANSWERED
    assert rewarded(refused) == Reward(1.0, 0.0, 0.0, 0.9)
    assert rewarded(converse(zoom(), RIGHT, unreadable=True)) == Reward(1.0, 1.0, 0.0, 1.0)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_bonus_fades_above_the_target(rate: float) -> None:
    def bonus(right: bool, num_zooms: int, zoom_rate: float) -> float:
        return tool_reward(right=right, num_zooms=num_zooms, zoom_rate=zoom_rate, config=PAPER)

    assert bonus(True, 1, rate) == bonus(True, 4, rate) == 0.5
    assert bonus(True, 0, rate) == bonus(False, 1, rate) == 0.0
    assert bonus(True, 1, 0.5 + 1e-9) == 0.0
    assert tool_reward(right=True, num_zooms=1, zoom_rate=0.6, config=replace(PAPER, target_zoom_rate=0.7)) == 0.5
    with pytest.raises(ValueError, match=r"got 1\.5"):
        bonus(True, 1, 1.5)


@pytest.mark.parametrize(
    "turns",
    [
        (RIGHT,),
        (WRONG,),
        (zoom(), RIGHT),
        (zoom(), zoom(20, 22), zoom(0, 1), zoom(60, 70, 1), RIGHT),
        ("\n" + zoom().replace("</think>", "</think>\n"), "\n " + RIGHT),
        (zoom().replace("look", ""), RIGHT),
        (zoom().replace('"', "'"), RIGHT),  # what the parser reads is paid
    ],
)
def test_right_format(converse: Converse, turns: tuple[str, ...]) -> None:
    assert keeps_format(converse(*turns), VZOOM)


@pytest.mark.parametrize(
    "turns",
    [
        ("<answer>B</answer>",),  # no thought
        ("B",),
        ("<think>x</think>B",),
        ("<think>x</think>",),
        ("x</think><answer>B</answer>",),  # a thought that was never opened
        ("<think>x<answer>B</answer>",),  # … never closed
        ("Well: " + RIGHT,),
        ("<think>x</think><think>y <answer>B</answer>",),
        ("<think>x</think><answer>B",),
        ("<think>x</think>So: <answer>B</answer>",),
        ("<think>x</think><answer> </answer>",),
        ("<think>x</think><answer>A<answer>B</answer>",),
        (zoom(8, 4), RIGHT),  # reversed
        (zoom(4, 4), RIGHT),  # empty
        (zoom(fps=0), RIGHT),
        (zoom(0, 60, 2), RIGHT),  # 120 frames
        (zoom(70, 80), RIGHT),  # behind the end
        (zoom().replace("</video_zoom>", ""), RIGHT),  # carried out, not paid
        (zoom().replace("<think>look</think>", ""), RIGHT),
        ("<think>x</think><video_zoom>4 to 8</video_zoom>", RIGHT),
        ("<think>x</think><answer>" + zoom().partition("</think>")[2], RIGHT),
        ("gibberish", RIGHT),
        (zoom(), zoom()),  # cancelled without an answer
        (zoom(), zoom(), zoom(), zoom(), zoom()),  # rounds are over
    ],
)
def test_wrong_format(converse: Converse, turns: tuple[str, ...]) -> None:
    trajectory = converse(*turns)
    assert trajectory.turns
    assert not keeps_format(trajectory, VZOOM)


def test_turns_whose_outcome_is_not_known_are_parsed(converse: Converse) -> None:
    video = converse(RIGHT).video
    assert keeps_format(Trajectory("Who?", video, turns=[Turn(zoom()), Turn(RIGHT)]), VZOOM)
    assert not keeps_format(Trajectory("Who?", video, turns=[Turn(zoom(8, 4)), Turn(RIGHT)]), VZOOM)


def test_an_answer_cut_off_by_a_limit_is_no_answer(converse: Converse) -> None:
    cut = converse(RIGHT, max_new_tokens=5)
    assert cut.stop_reason is StopReason.TURN_TOKENS
    assert rewarded(cut) == Reward(0.0, 0.0, 0.0, 0.0)
    assert not keeps_format(Trajectory("Who?", cut.video, stop_reason=StopReason.ANSWERED), VZOOM)


def test_a_letter_in_a_thought_is_no_answer(converse: Converse) -> None:
    trajectory = converse("<think>The answer is B</think>", "<think>B</think>", max_zooms=1)
    assert trajectory.answer is None
    assert rewarded(trajectory).accuracy == 0.0


def test_open_answers_are_judged_and_a_failure_is_no_reward(converse: Converse) -> None:
    asked = []

    def judge(question: str, reference: str, answer: str) -> bool:
        asked.append((question, reference, answer))
        return answer == "it jumps"

    said = converse("<think>x</think><answer>it jumps</answer>")
    found = score(said, OPEN, VZOOM, zoom_rate=0.0, config=PAPER, judge=judge)
    assert found == Reward(1.0, 1.0, 0.0, 1.0)
    assert asked == [("What happens?", "a dog jumps", "it jumps")]
    assert is_right("it sleeps", OPEN, judge=judge) is False
    failure = JudgeFailed("busy", 4)
    assert score(said, OPEN, VZOOM, zoom_rate=0.0, config=PAPER, judge=lambda *_: failure) is failure
    silent = converse("<think>x</think>", max_zooms=0)
    assert score(silent, OPEN, VZOOM, zoom_rate=0.0, config=PAPER, judge=lambda *_: failure) == Reward(
        0.0, 0.0, 0.0, 0.0
    )
    assert is_right("B", SHAPES, judge=lambda *_: failure) is True  # options need no judge
    with pytest.raises(ValueError, match="give a judge"):
        is_right("it jumps", OPEN)


def test_the_running_rate_by_hand() -> None:
    rate = ZoomRate(memory=0.75)
    assert rate.value == 0.0
    rate = rate.after(num_zoomed=8, num_rollouts=10)
    assert rate.value == 0.8
    rate = rate.after(num_zoomed=0, num_rollouts=4)
    assert rate.value == pytest.approx(0.6)
    assert rate.steps == 2
    assert ZoomRate(memory=0.0).after(num_zoomed=1, num_rollouts=1).after(num_zoomed=0, num_rollouts=1).value == 0.0
    for num_zoomed, num_rollouts in ((1, 0), (-1, 2), (3, 2)):
        with pytest.raises(ValueError, match="cannot have zoomed"):
            rate.after(num_zoomed=num_zoomed, num_rollouts=num_rollouts)
    with pytest.raises(ValueError, match="memory"):
        ZoomRate(memory=1.0)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(8, 16)), max_size=8), st.floats(0, 0.99))
def test_a_rate_stays_between_those_of_its_steps(steps: list[tuple[int, int]], memory: float) -> None:
    rate = ZoomRate(memory=memory)
    for zoomed, rollouts in steps:
        rate = rate.after(num_zoomed=zoomed, num_rollouts=rollouts)
    rates = [z / n for z, n in steps] or [0.0]
    assert min(rates) - 1e-12 <= rate.value <= max(rates) + 1e-12


def test_settings_and_references_are_checked() -> None:
    for changes in ({"tool_bonus": -1.0}, {"accuracy_weight": math.nan}, {"target_zoom_rate": 1.5}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            RewardConfig(**changes)
    for answer in ("E", "b", "", "AB"):
        with pytest.raises(ValueError, match="answer"):
            Reference("Which?", answer, SHAPES.options)
    with pytest.raises(ValueError, match="no reference answer"):
        Reference("What?", " ")
