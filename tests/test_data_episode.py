"""Our game by text: what an expert is shown, what of its replies becomes a turn, and that a record comes of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expert_tools import CONFIG, ZOOM, make_factory, make_questions, read_questions
from PIL import Image
from protocols import BRIEF, VZOOM
from transformers import AutoTokenizer

from vzoom.data.collect.episode import Episode, EpisodeFactory, EpisodeFailed
from vzoom.data.collect.messages import data_url, whole_turn, with_request
from vzoom.data.record import Record
from vzoom.data.tokens import tokenize_record
from vzoom.protocol.text_codec import TextCodec
from vzoom.protocol.well_formed import strict_action
from vzoom.types import Answer, CallError, Clip, Malformed, StopReason, ZoomCall
from vzoom.video import VideoReadError
from vzoom.zoomer import embedded_path

pytest.importorskip("pyarrow", reason="pyarrow (extra train) is not installed")

LOOK = '<think>See.</think><video_zoom>{"segment": [4, 6], "fps": 2}</video_zoom>'
LATE = '<think>See.</think><video_zoom>{"segment": [31.5, 40], "fps": 2}</video_zoom>'
LONG = '<think>All.</think><video_zoom>{"segment": [0, 32], "fps": 2}</video_zoom>'
BROKEN = '<think>See.</think><video_zoom>{"segment": [4, 6]}</video_zoom>'
DONE = "<think>A star.</think><answer>B</answer>"


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return read_questions(make_questions(tmp_path_factory.mktemp("videos"), 1))[0]


@pytest.fixture(scope="module")
def factory() -> EpisodeFactory:
    return make_factory()


def roles(episode: Episode) -> list[str]:
    return [message["role"] for message in episode.messages]


def texts(content: str | Sequence[dict[str, Any]]) -> list[str]:
    """Pieces of text, "*" for an image."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [part["text"] if part["type"] == "text" else "*" for part in parts]


# ---------------------------------------------------------------- what an expert is shown


def test_the_opening_explains_the_game_even_where_the_prompt_is_brief(
    question: Record, factory: EpisodeFactory
) -> None:
    assert question.config.protocol == BRIEF
    system, user = factory.open(question).messages
    assert system["role"] == "system"
    assert (
        '<video_zoom>{"segment": [start_seconds, end_seconds], "fps": frames_per_second}</video_zoom>'
        in (system["content"])
    )
    assert "at most 16 a call" in system["content"]
    said = texts(user["content"])
    assert said[0] == "The video is 32.00 seconds long. Glance at 16 frames:\nFrame 1 at 0.00s: "
    assert said[1::2] == ["*"] * 16
    assert said[2] == "\nFrame 2 at 2.00s: "
    assert said[-1] == f"\n{question.question}\nThink, then zoom (at most 4 more) or answer."
    assert "<|" not in str([system, said])


def test_a_zoom_and_a_refusal_come_back_as_the_user(question: Record, factory: EpisodeFactory) -> None:
    episode = factory.open(question)
    episode.say(LOOK, "expert")
    episode.say(BROKEN, "expert")
    episode.say(LATE, "expert")
    episode.say(LONG, "expert")
    assert roles(episode) == ["system", "user", *["assistant", "user"] * 4]
    assert [message["content"] for message in episode.messages[2::2]] == [LOOK, BROKEN, LATE, LONG]
    clip, error, late, long = (message["content"] for message in episode.messages[3::2])
    assert texts(clip) == [
        "<tool_response>\n4 frames from 4.00s to 6.00s:\nFrame 1 at 4.00s: ",
        *["*", "\nFrame 2 at 4.50s: ", "*", "\nFrame 3 at 5.00s: ", "*", "\nFrame 4 at 5.50s: ", "*"],
        "\n</tool_response>\nThink, then zoom (at most 3 more) or answer.",
    ]
    assert error == (
        "<tool_response>\nError (missing_key): A call needs both segment and fps. "
        'You wrote: {"segment": [4, 6]}\n</tool_response>\nThink, then zoom (at most 2 more) or answer.'
    )
    assert texts(late)[0].endswith("from 31.50s to 32.00s: The video ends at 32.00s.\nFrame 1 at 31.50s: ")
    assert "Error (too_many_frames)" in long
    assert long.endswith("No zooms are left. Think, then answer now.")


def test_frames_are_those_of_the_model(question: Record, factory: EpisodeFactory) -> None:
    """At its size, without loss while they are small."""
    user = factory.open(question).messages[1]
    url = next(part["image_url"]["url"] for part in user["content"] if part["type"] == "image_url")
    kind, _, data = url.partition(";base64,")
    assert kind == "data:image/png"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.size == (56, 56)
    with_frames = factory.clips.reader(question.video.path)
    glance = factory.clips.frames_at(with_frames, [0.0])
    assert glance.frames.shape[1:3] == (84, 84)
    assert len({part["image_url"]["url"] for part in user["content"] if part["type"] == "image_url"}) > 1


def test_a_large_frame_is_a_jpeg_close_to_what_it_was() -> None:
    rows = np.linspace(0, 255, 240, dtype=np.uint8)
    frame = np.stack([np.tile(rows, (200, 1))] * 3, -1)
    kind, _, data = data_url(frame).partition(";base64,")
    assert kind == "data:image/jpeg"
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), dtype=int)
    assert np.abs(found - frame).max() <= 4


def test_a_request_is_put_behind_the_last_message_of_the_user() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    first = {"role": "user", "content": "Hello"}
    assert with_request([first], "More.") == [{"role": "user", "content": "Hello\nMore."}]
    framed = {"role": "user", "content": [image]}
    assert with_request([first, framed], "More.")[1]["content"] == [image, {"type": "text", "text": "More."}]
    assert (first, framed) == ({"role": "user", "content": "Hello"}, {"role": "user", "content": [image]})


# ---------------------------------------------------------------- what of a reply becomes a turn


@pytest.mark.parametrize(
    ("reply", "turn"),
    [
        (DONE, DONE),
        (f"\n {DONE} \n", DONE),
        (f"{DONE}<|im_end|> And so on", DONE),  # a server that goes on behind the stop string
        (f"{LOOK}\n<tool_response>I imagine a star</tool_response>{DONE}", LOOK),
        (DONE.removesuffix("</answer>"), DONE),  # a server that strips it
        (LOOK.removesuffix("</video_zoom>"), LOOK),
        ("<think>an <answer> it is</think>" + BROKEN[19:-13], "<think>an <answer> it is</think>" + BROKEN[19:]),
        ("<think>I do not know.</think>", "<think>I do not know.</think>"),
        ("no tags", "no tags"),
    ],
)
def test_a_reply_becomes_a_turn(reply: str, turn: str) -> None:
    assert whole_turn(reply, VZOOM) == turn


@pytest.mark.parametrize(
    ("text", "strict"),
    [
        (DONE, True),
        (LOOK, True),
        (DONE.replace("</think>", "</think>\n"), True),
        (DONE.replace("</think>", "</think>So: "), False),
        (DONE.removeprefix("<think>"), False),
        ("<answer>B</answer>", False),
        (DONE.replace("</think>", ""), False),
        ("<think>a</think>b</think><answer>B</answer>", False),
        (DONE.removesuffix("</answer>"), False),
    ],
)
def test_the_form_that_is_worth_learning(text: str, strict: bool) -> None:
    outcome = Answer("B") if "answer" in text else ZoomCall(4, 6, 2)
    assert strict_action(text, VZOOM) == (outcome if strict else None)


# ---------------------------------------------------------------- the record that comes of it


def test_a_conversation_becomes_a_record_with_the_engines_tokens(question: Record, factory: EpisodeFactory) -> None:
    episode = factory.open(question)
    for text in (BROKEN, LOOK):
        episode.say(text, "expert")
        assert episode.stop_reason is None
    episode.say(DONE, "expert")
    assert (episode.stop_reason, episode.answer, episode.texts) == (StopReason.ANSWERED, "B", (BROKEN, LOOK, DONE))
    record = episode.record("a")
    assert [turn.flawed for turn in record.turns] == [True, False, False]
    assert [turn.source for turn in record.turns] == ["expert"] * 3
    assert record.turns[0].outcome == Malformed(CallError.MISSING_KEY, '{"segment": [4, 6]}')
    assert record.turns[1].outcome == ZoomCall(4, 6, 2)
    assert record.turns[1].pts_seconds == (4.0, 4.5, 5.0, 5.5)
    assert len(record.glance_seconds) == 16
    tokens = tokenize_record(record, factory.vocabulary)
    learned = [i for i, yes in zip(tokens.trajectory.ids, tokens.learned, strict=True) if yes]
    assert factory.vocabulary.codec.decode(learned) == LOOK + DONE


def test_turns_that_are_said_to_be_flawed_are(question: Record, factory: EpisodeFactory) -> None:
    episode = factory.open(question)
    episode.say(LOOK, "student", flawed=True)
    episode.say(DONE, "expert")
    assert [turn.flawed for turn in episode.record("a").turns] == [True, False]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([LOOK] * 5, StopReason.ROUNDS),
        (["<think>" + "and on " * 70 + "</think><answer>B</answer>"], StopReason.TURN_TOKENS),
        (["no"] * 5, StopReason.ROUNDS),
    ],
)
def test_conversations_that_end_without_an_answer(
    said: list[str], reason: StopReason, question: Record, factory: EpisodeFactory
) -> None:
    episode = factory.open(question)
    for text in said:
        episode.say(text, "expert")
    assert (episode.stop_reason, episode.answer) == (reason, None)


def test_an_expert_that_spells_control_tokens_only_spells(question: Record, factory: EpisodeFactory) -> None:
    episode = factory.open(question)
    episode.say("<think>It says <|im_end|>.</think><answer>B</answer>", "expert")
    trajectory = episode.session.trajectory
    assert episode.stop_reason is StopReason.ANSWERED
    sampled = [i for i, yes in zip(trajectory.ids, trajectory.sampled, strict=True) if yes]
    assert factory.vocabulary.end_of_turn_id not in sampled


class Lossy(TextCodec):
    """A codec that knows no "ö"."""

    def encode_plain(self, text: str) -> list[int]:
        return super().encode_plain(text.replace("ö", "o"))


def test_a_text_that_the_vocabulary_lacks(question: Record, factory: EpisodeFactory) -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded_path())
    vocabulary = replace(factory.vocabulary, codec=Lossy(tokenizer.backend_tokenizer))
    episode = replace(factory, vocabulary=vocabulary).open(question)
    with pytest.raises(EpisodeFailed, match="in this vocabulary") as problem:
        episode.say("<think>schön</think><answer>B</answer>", "expert")
    assert problem.value.reason == "vocabulary"


class Unreadable:
    """Frames of which only the glance can be had."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.info = inner, inner.info

    def frames_at(self, timestamps: Sequence[float]) -> Clip:
        if timestamps[0] > 0:
            raise VideoReadError("nothing decodes there")
        return self.inner.frames_at(timestamps)

    def close(self) -> None: ...


def test_a_clip_that_cannot_be_read_is_told(question: Record, factory: EpisodeFactory) -> None:
    episode = Episode(question, Unreadable(factory.open(question).frames), factory.vocabulary)
    episode.say(LOOK, "expert")
    assert "Error (unreadable)" in episode.messages[-1]["content"]
    episode.say(DONE, "expert")
    record = episode.record("a")
    assert record.turns[0].flawed
    assert isinstance(record.turns[0].outcome, Malformed)


# ---------------------------------------------------------------- what cannot be played


def test_questions_that_cannot_be_opened(question: Record, factory: EpisodeFactory, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another file now"):
        factory.open(replace(question, video=replace(question.video, sha256="0" * 64)))
    with pytest.raises(ValueError, match="no such file"):
        factory.open(replace(question, video=replace(question.video, path=str(tmp_path / "gone.mp4"))))
    with pytest.raises(EpisodeFailed, match="lower glance_max_frames") as problem:
        factory.open(replace(question, config=replace(ZOOM, max_total_tokens=100)))
    assert problem.value.reason == "unreadable"
    assert CONFIG.duration_seconds == question.video.duration_seconds
