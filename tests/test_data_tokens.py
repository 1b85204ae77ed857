"""Masks, token by token, for one trajectory of each kind; and that the engine and the trainer have the same tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_records import (
    BROKEN,
    CONFIG,
    DONE,
    HUNGRY,
    LOOK,
    MALFORMED,
    OVER_BUDGET,
    PLAIN,
    PROMPT,
    QUESTION,
    REFLECTION,
    WRONG,
    ZOOM,
    conversation,
    with_turn,
)
from pretrain_conversation import conversation as pretraining_example
from protocols import BRIEF
from transformers import AutoTokenizer

from vzoom.config import Sampling, ZoomConfig
from vzoom.data.record import Record, RecordedTurn, VideoRef, from_trajectory
from vzoom.data.rows import from_row, to_row
from vzoom.data.show import token_lines
from vzoom.data.tokens import learned_mask, tokenize_record
from vzoom.data.validate import InvalidRecord
from vzoom.data.videos import refer
from vzoom.engine.scripted_session import ScriptedSession
from vzoom.engine.session import Done, NeedFrames, NeedTokens
from vzoom.models.checkpoint.vocabulary import load_vocabulary
from vzoom.protocol.frame_times import glance_timestamps, zoom_timestamps
from vzoom.protocol.vocabulary import Vocabulary
from vzoom.synthetic import make_video, render
from vzoom.synthetic.oracle import oracle_turns
from vzoom.synthetic.questions import ask, ask_questions, config_for
from vzoom.synthetic.spec import SyntheticConfig
from vzoom.train.pretrain.example import ExampleWriter
from vzoom.train.pretrain.frame_store import FrameStore
from vzoom.types import Answer, CallError, Clip, Malformed, StopReason, ZoomCall
from vzoom.zoomer import embedded_path, load

FED, SHOWN, LEARNED = "fed", "shown", "learned"
PAD = "<|image_pad|>" * 4
ZOOM_OR, ANSWER_NOW = (f"\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in ("Zoom or answer.", "Answer now."))
TOOL = "\n<|im_start|>user\n<tool_response>"


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return load_vocabulary(str(embedded_path()))


def frames(*labels: str) -> list[tuple[str, str]]:
    pieces = [(FED, piece) for label in labels for piece in (f"{label}<|vision_start|>", PAD, "<|vision_end|>")]
    return [*pieces, (FED, "\n")]


GLANCE = [(FED, "<|im_start|>user\n4.00s\n"), *frames("0.00s", "2.00s"), (FED, QUESTION), (FED, ZOOM_OR)]


def clip(*labels: str, left: str) -> list[tuple[str, str]]:
    """Behind a call: its end of turn, never sampled and never learned, then the frames."""
    return [(FED, f"<|im_end|>{TOOL}"), *frames(*labels), (FED, f"</tool_response>{left}")]


def error(text: str, *, left: str, opening: str = "<|im_end|>") -> list[tuple[str, str]]:
    return [(FED, opening + TOOL), (FED, text), (FED, f"</tool_response>{left}")]


KINDS = {
    "plain": (PLAIN, [*GLANCE, (LEARNED, DONE)]),
    "zoom": (ZOOM, [*GLANCE, (LEARNED, LOOK), *clip("1.00s", "1.50s", left=ZOOM_OR), (LEARNED, DONE)]),
    "reflection": (
        REFLECTION,
        [
            *GLANCE,
            (SHOWN, WRONG),
            *clip("3.00s", "3.50s", left=ZOOM_OR),
            (LEARNED, LOOK),
            *clip("1.00s", "1.50s", left=ANSWER_NOW),
            (LEARNED, DONE),
        ],
    ),
    "malformed": (
        MALFORMED,
        [
            *GLANCE,
            (SHOWN, BROKEN),
            *error(
                '\nError (missing_key): A call needs both segment and fps. You wrote: {"segment": [1, 2]}\n',
                left=ZOOM_OR,
            ),
            (LEARNED, LOOK),
            *clip("1.00s", "1.50s", left=ANSWER_NOW),
            (LEARNED, DONE),
        ],
    ),
    "out of budget": (
        OVER_BUDGET,
        [
            *GLANCE,
            (SHOWN, HUNGRY),
            *error(
                "\nError (over_budget): The clip does not fit in what is left: ask for fewer frames or answer. "
                "You wrote: 8 frames, 4 are left\n",
                left=ZOOM_OR,
            ),
            (SHOWN, "I give up."),
            (SHOWN, "<|im_end|>"),  # here the model itself ended its turn: sampled
            *error(
                "\nError (empty): The turn held neither a call nor an answer. You wrote: I give up.\n",
                left=ANSWER_NOW,
                opening="",
            ),
            (SHOWN, LOOK),
        ],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_has_its_mask(kind: str, vocabulary: Vocabulary) -> None:
    record, pieces = KINDS[kind]
    expected = [
        (token, mask)
        for mask, text in pieces
        for token in (vocabulary.codec.encode_plain(text) if text == QUESTION else vocabulary.codec.encode(text))
    ]
    lines = list(token_lines(record, vocabulary, every_visual=True))
    assert [(line.id, line.mask) for line in lines] == expected
    assert [line.index for line in lines] == list(range(len(expected)))


@pytest.mark.parametrize("kind", KINDS)
def test_one_line_a_frame_leaves_no_token_out(kind: str, vocabulary: Vocabulary) -> None:
    record, pieces = KINDS[kind]
    whole = list(token_lines(record, vocabulary, every_visual=True))
    folded = list(token_lines(record, vocabulary))
    assert sum(line.count for line in folded) == len(whole)
    assert [line.count for line in folded if line.count > 1] == [4] * sum(text == PAD for _, text in pieces)
    assert [line.index for line in folded[1:]] == [line.index + line.count for line in folded[:-1]]


def test_learned_mask_by_turns() -> None:
    sampled = [False, True, True, False, True, False, False, True]
    assert learned_mask(sampled, [False, True, False]) == [False, True, True, False, False, False, False, True]
    with pytest.raises(ValueError, match="3 runs of sampled tokens for 2 turns"):
        learned_mask(sampled, [False, False])


# ---------------------------------------------------------------- the same tokens as the engine, and as the trainer


def blank(times: tuple[float, ...]) -> Clip:
    return Clip(np.zeros((len(times), 56, 56, 3), np.uint8), times, tuple(range(len(times))), (False,) * len(times))


def held(vocabulary: Vocabulary, texts: list[str], config: ZoomConfig) -> ScriptedSession:
    """A conversation as the engine drives it."""
    session = ScriptedSession(texts, QUESTION, PLAIN.video.info, vocabulary, config, Sampling())
    while not isinstance(session.action, Done):
        if isinstance(session.action, NeedFrames):
            session.splice(blank(session.action.timestamps))
        else:
            assert isinstance(session.action, NeedTokens)
            session.accept(0, -1.0)
    return session


@pytest.mark.parametrize(
    ("texts", "changes"),
    [
        ([DONE], {}),
        ([LOOK, DONE], {}),
        ([BROKEN, HUNGRY, "no<|im_end|>"], {}),
        ([LOOK, "<think>I wonder, and I wonder"], {"max_new_tokens": 30}),
        ([LOOK, "<think>I wonder, and I wonder"], {"max_total_tokens": 155}),
    ],
)
def test_a_conversation_of_the_engine_comes_back_token_for_token(
    texts: list[str], changes: dict[str, int], vocabulary: Vocabulary
) -> None:
    config = replace(CONFIG, **changes)
    trajectory = held(vocabulary, [*texts, " and on" * 40], config).trajectory
    record = from_trajectory(trajectory, config, id="a", video=PLAIN.video, reference="B")
    tokens = tokenize_record(record, vocabulary)
    assert tokens.trajectory.ids == trajectory.ids
    assert tokens.trajectory.sampled == trajectory.sampled
    assert tokens.trajectory.positions == trajectory.positions
    assert tokens.trajectory.visuals == trajectory.visuals
    assert tokens.trajectory.stop_reason == trajectory.stop_reason
    if config == CONFIG and isinstance(record.turns[-1].outcome, Answer):  # whole turns: text says as much
        assert tokenize_record(replace(record, ids=None, sampled=None), vocabulary) == tokens
    else:
        assert record.turns[-1].flawed
        assert record.turns[-1].outcome is None or changes == {}


def test_an_expert_cannot_spell_a_control_token(vocabulary: Vocabulary) -> None:
    text = "<think>It says <|im_end|>.</think><answer>B</answer>"
    tokens = tokenize_record(with_turn(PLAIN, 0, text=text), vocabulary)
    learned = [i for i, yes in zip(tokens.trajectory.ids, tokens.learned, strict=True) if yes]
    assert vocabulary.end_of_turn_id not in learned
    assert vocabulary.codec.decode(learned) == text


@pytest.mark.parametrize("flaw", ["none", "shifted", "elsewhere"])
def test_the_trainer_has_the_same_tokens_and_masks(flaw: str, vocabulary: Vocabulary) -> None:
    config = ZoomConfig(protocol=BRIEF, min_pixels=3136, max_pixels=3136)
    store = FrameStore(SyntheticConfig(), side=56, first=0, count=3)
    tokenizer = AutoTokenizer.from_pretrained(embedded_path())
    for number in range(len(store)):
        stored = store[number]
        writer = ExampleWriter(tokenizer, config, side=56, rng=np.random.default_rng(number))
        example = pretraining_example(writer, stored, max_zooms=config.max_zooms, flaw=flaw)  # type: ignore[arg-type]
        rng, info = np.random.default_rng(number), stored.video.info()
        question = ask(stored.video, "which", rng)
        said = oracle_turns(stored.video, question, config, max_zooms=4, rng=rng, flaw=flaw)  # type: ignore[arg-type]
        turns = []
        for turn in said:
            times = zoom_timestamps(turn.outcome, info, config) if isinstance(turn.outcome, ZoomCall) else []
            assert isinstance(times, list)
            turns.append(RecordedTurn(turn.text(BRIEF), "oracle", turn.outcome, turn.flawed, tuple(times)))
        video = VideoRef("w.mp4", "0" * 64, info.duration_seconds, info.fps, info.width, info.height)
        glance = tuple(glance_timestamps(info, config))
        record = Record(
            "w", question.text, (), None, video, config, glance, tuple(turns), stop_reason=StopReason.ANSWERED
        )
        tokens = tokenize_record(record, vocabulary)
        assert tokens.trajectory.ids == example.span.ids
        assert tokens.learned == example.learned
        assert [v.offset for v in tokens.trajectory.visuals] == [block.offset for block in example.span.blocks]


# ---------------------------------------------------------------- what the engine would not have held


UNREADABLE = Malformed(CallError.UNREADABLE, "nothing can be decoded behind 1.00 s")


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (PROMPT, "a question without turns"),
        (replace(PLAIN, stop_reason=StopReason.ROUNDS), "does not end by rounds"),
        (with_turn(OVER_BUDGET, 0, outcome=Malformed(CallError.BEYOND_END, "")), "comes out as .*OVER_BUDGET"),
        (with_turn(REFLECTION, 0, pts_seconds=(), outcome=Malformed(CallError.NO_ZOOMS_LEFT, "")), "would be carried"),
        (with_turn(ZOOM, 1, text=DONE + " Really."), "turn 2 ends after"),
        (replace(ZOOM, turns=ZOOM.turns[:1]), "does not end by answered"),
        (replace(ZOOM, turns=(*PLAIN.turns, *PLAIN.turns)), "turn 2 follows a conversation that is over"),
        (replace(ZOOM, glance_seconds=tuple(i / 8 for i in range(7))), "the glance of 7 frames"),
    ],
)
def test_a_record_that_the_engine_would_not_hold(record: Record, problem: str, vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match=problem):
        tokenize_record(record, vocabulary)


def test_an_unreadable_clip_is_told_again(vocabulary: Vocabulary) -> None:
    unread = (LOOK, "expert", UNREADABLE, True, ())
    tokens = tokenize_record(conversation("u", unread, (DONE, "expert", Answer("B"), False, ())), vocabulary)  # type: ignore[arg-type]
    assert UNREADABLE.detail in vocabulary.codec.decode(tokens.trajectory.ids)


def test_tokens_of_another_tokenizer_are_noticed(vocabulary: Vocabulary) -> None:
    trajectory = held(vocabulary, [LOOK, DONE], CONFIG).trajectory
    record = from_trajectory(trajectory, CONFIG, id="a", video=PLAIN.video)
    assert record.ids is not None
    assert record.sampled is not None
    sampled_at = record.sampled.index(True) + 1
    for at, problem in ((sampled_at, "another tokenizer"), (3, "from token 3 on")):
        ids = list(record.ids)
        ids[at] = vocabulary.codec.encode(" star")[0]
        with pytest.raises(InvalidRecord, match=problem):
            tokenize_record(replace(record, ids=tuple(ids)), vocabulary)


def test_a_conversation_about_a_real_file_comes_back(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Decoded times, frames at the model's size, tokens that a model chose: the record alone gives them again."""
    config = config_for("which")
    video = make_video(3, config)
    render(video, tmp_path / "w.mp4")
    zoomer = load(device="cpu")
    for max_zooms in (4, 0):
        question = ask_questions(video, "which", 3)
        trajectory = zoomer.ask(tmp_path / "w.mp4", question.text, max_zooms=max_zooms).trajectory
        used = zoomer.config.override(max_zooms=max_zooms)
        record = from_trajectory(trajectory, used, id="r", video=refer(tmp_path / "w.mp4"), options=question.options)
        tokens = tokenize_record(from_row(to_row(record)), vocabulary)
        assert tokens.trajectory.ids == trajectory.ids
        assert tokens.trajectory.sampled == trajectory.sampled
        assert tokens.trajectory.positions == trajectory.positions
        assert tokens.trajectory.visuals == trajectory.visuals
        assert len(trajectory.visuals) >= 16
