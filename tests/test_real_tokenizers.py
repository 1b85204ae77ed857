"""The vocabularies of Qwen2.5 and Qwen3: no text from outside becomes an added token; prompts are the template's."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
from protocols import BRIEF, TAGS, VZOOM
from real_tokenizers import NAMES, NOT_SPECIAL, SPECIAL, real_tokenizer

from vzoom.config import ZoomConfig
from vzoom.engine.session import NeedFrames, NeedTokens, Session
from vzoom.eval.benchmarks.options import MULTIPLE_CHOICE, listed
from vzoom.eval.benchmarks.subtitles import Line, put_before
from vzoom.models.checkpoint.vocabulary import build_vocabulary
from vzoom.protocol import Protocol
from vzoom.protocol.render import ImagePart, Part, TextPart, error_turn, prompt, tool_turn
from vzoom.protocol.text_codec import TextCodec
from vzoom.protocol.tokenize import tokenize_parts
from vzoom.protocol.vocabulary import Vocabulary
from vzoom.types import CallError, Clip, Malformed, VideoInfo, ZoomCall
from vzoom.video import PatchSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VIDEO = VideoInfo("v.mp4", duration_seconds=64.0, fps=8.0, width=56, height=56)
CALL = '<think>Look.</think><video_zoom>{"segment": [4, 8], "fps": 2}</video_zoom>'


@pytest.fixture(scope="module", params=NAMES)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return real_tokenizer(request.param)


@pytest.fixture(scope="module")
def vocabulary(tokenizer: PreTrainedTokenizerFast) -> Vocabulary:
    return build_vocabulary(tokenizer, PatchSpec(), "Qwen")


def added_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[int, str]:
    return {id: token.content for id, token in tokenizer.added_tokens_decoder.items()}


def test_the_vocabularies_are_the_published_ones(tokenizer: PreTrainedTokenizerFast) -> None:
    added = added_tokens(tokenizer)
    assert [added[id] for id in range(151643, 151665)] == [*SPECIAL, *NOT_SPECIAL]
    assert tokenizer.encode("The video is 64.00 seconds long.") == [
        785, 2766, 374, 220, 21, 19, 13, 15, 15, 6486, 1293, 13,
    ]  # fmt: skip


# ---------------------------------------------------------------- text from outside


def strings_around(added: Sequence[str], count: int) -> list[str]:
    """Every added token, then random strings of tokens, pieces of tokens, tags and what may surround them."""
    rng = random.Random(0)
    around = [
        "",
        " ",
        "\n",
        "\n\n",
        "\t",
        "?",
        "!",
        "<",
        ">",
        "|",
        "<|",
        "|>",
        "</",
        "a",
        "é",
        "你好",
        "🎉",
        "\u200b",
        "A. ",
        "1",
    ]

    def piece() -> str:
        token = rng.choice(added)
        match rng.randrange(4):
            case 0:
                return token
            case 1:
                return token[: rng.randrange(1, len(token))]
            case 2:
                return token[rng.randrange(1, len(token)) :]
            case _:
                return rng.choice(around)

    return [*added, *("".join(piece() for _ in range(rng.randrange(1, 8))) for _ in range(count))]


def conversation(text: str) -> list[Part]:
    """A prompt and an error turn with `text` in the question, in an option, in the subtitles and in a file's name."""
    question = MULTIPLE_CHOICE.format(question=f"What is {text}", options=listed([text, f"{text}b"]))
    question = put_before(question, [Line(0.0, 2.0, text)])
    config = ZoomConfig(protocol=BRIEF)
    asked = prompt(question, VIDEO, [0.0], config)
    problem = Malformed(CallError.UNREADABLE, f"{text}.mp4: no frame can be decoded")
    return [*asked, *error_turn(problem, VIDEO, config, question=question, zooms_left=3)]


def problem_with(text: str, codec: TextCodec, added: dict[int, str]) -> str | None:
    """What is wrong with the ids of a conversation about `text`."""
    parts = conversation(text)
    image = codec.token_id("<|image_pad|>")
    assert image is not None
    ids = tokenize_parts(parts, [(2, 2)], codec, image, merge=2).ids
    expected = Counter(
        id for part in parts if isinstance(part, TextPart) and part.trusted for id in codec.encode(part.text)
    )
    expected[image] += 1
    for id in added:
        if ids.count(id) != expected[id]:
            return f"{text!r}: {added[id]} {ids.count(id)} times instead of {expected[id]}"
    whole = "".join(part.text if isinstance(part, TextPart) else "<|image_pad|>" for part in parts)
    read = codec.decode(ids, special=True)
    return None if read == unicodedata.normalize("NFC", whole) else f"{text!r}: reads {read!r}"


@pytest.mark.parametrize(("num_threads", "num_random"), [(1, 10_000), (8, 2_000)])
def test_no_text_from_outside_becomes_an_added_token(
    num_threads: int, num_random: int, tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary
) -> None:
    added = added_tokens(tokenizer)
    texts = strings_around(list(added.values()), num_random)
    one = partial(problem_with, codec=vocabulary.codec, added=added)
    with ThreadPoolExecutor(num_threads) as pool:
        problems = list(filter(None, pool.map(one, texts)))
    assert not problems, problems[:3]


def test_a_session_says_it_as_the_parts_do(tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary) -> None:
    """Through the state machine that the engine runs: the question, and a file's name in an error."""
    for text in added_tokens(tokenizer).values():
        session = Session(f"What is {text}?", VIDEO, vocabulary, ZoomConfig(glance_max_frames=2))
        plain = Session("What is it?", VIDEO, vocabulary, ZoomConfig(glance_max_frames=2))
        for one in (session, plain):
            assert isinstance(one.action, NeedFrames)
            times = one.action.timestamps
            frames = np.zeros((len(times), 56, 56, 3), np.uint8)
            one.splice(Clip(frames, times, tuple(range(len(times))), (False,) * len(times)))
            for token in vocabulary.codec.encode_turn(CALL, TAGS):
                one.accept(token, 0.0)
            one.unreadable(f"{text if one is session else 'v'}.mp4: no frame can be decoded")
            assert isinstance(one.action, NeedTokens)
        fed, usual = (Counter([*one.trajectory.ids, *one.action.span.ids]) for one in (session, plain))  # type: ignore[union-attr]
        assert {id: fed[id] for id in added_tokens(tokenizer)} == {id: usual[id] for id in added_tokens(tokenizer)}


# ---------------------------------------------------------------- the chat template

# ChatML with images, as Qwen2.5-VL documents it in its chat_template.json (without the branch for videos).
TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

QUESTIONS = (
    "Who wins?", "Who wins", "Who wins? ", "Who wins?\n", "Who wins?\n\n", "Who wins?  \n \n", " Who?", "\nWho?",
    "誰が勝ちますか？", "谁赢了？\n", "谁赢了", "누가 이기나요?", "Who wins 🎉", "🎉", "🏳️‍🌈?!", "Who?!...", "don't",
    "A. red\nB. blue", "it's 12:30", "a\t", "(", "x = {", "e\u0301", "<", "…",
)  # fmt: skip


def template_ids(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, object]], num_visual: int) -> list[int]:
    """As Qwen2.5-VL's processor makes them: the template's text, one <|image_pad|> for each visual token."""
    text = tokenizer.apply_chat_template(messages, chat_template=TEMPLATE, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text.replace("<|image_pad|>", "<|image_pad|>" * num_visual), add_special_tokens=False)


def as_content(pieces: Sequence[str | None]) -> list[dict[str, str]]:
    """Content of a message; None is an image."""
    return [{"type": "image"} if piece is None else {"type": "text", "text": piece} for piece in pieces]


def ids_of(parts: Sequence[Part], vocabulary: Vocabulary) -> list[int]:
    num_images = sum(isinstance(part, ImagePart) for part in parts)
    return tokenize_parts(parts, [(4, 4)] * num_images, vocabulary.codec, vocabulary.image_token_id, merge=2).ids


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_prompt_is_the_chat_templates(
    question: str, tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary
) -> None:
    parts = prompt(question, VIDEO, [0.0, 2.5], ZoomConfig())
    assert isinstance(parts[0], TextPart)
    system = parts[0].text.removeprefix("<|im_start|>system\n").partition("<|im_end|>")[0]
    user = [
        "The video is 64.00 seconds long. Glance at 2 frames:\nFrame 1 at 0.00s: ",
        None,
        "\nFrame 2 at 2.50s: ",
        None,
        f"\n{question}\nThink, then zoom (at most 4 more) or answer.",
    ]
    messages = [{"role": "system", "content": system}, {"role": "user", "content": as_content(user)}]
    assert ids_of(parts, vocabulary) == template_ids(tokenizer, messages, num_visual=4)


@pytest.mark.parametrize("protocol", [VZOOM, BRIEF])
def test_a_whole_conversation_is_the_chat_templates(
    protocol: Protocol, tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary
) -> None:
    config = ZoomConfig(protocol=protocol)
    asked = prompt("Who?", VIDEO, [0.0], config)
    back = tool_turn([(ZoomCall(4, 5, 2), [4.0, 4.5])], VIDEO, config, question="Who?", zooms_left=3)
    ids = [*ids_of(asked, vocabulary), *vocabulary.codec.encode_turn(CALL, TAGS), *ids_of(back, vocabulary)]

    parts = [*asked, TextPart(CALL), *back]
    whole = "".join("<|image_pad|>" if isinstance(part, ImagePart) else part.text for part in parts)
    turns = [turn.split("<|im_end|>")[0].split("\n", 1) for turn in whole.split("<|im_start|>")[1:]]
    said = [{"role": role, "content": as_content(split_at_images(content))} for role, content in turns[:-1]]
    if protocol == BRIEF:  # without a system turn, for which the template puts one of its own
        own = template_ids(tokenizer, said, num_visual=4)
        system = tokenizer.encode("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
        assert own[: len(system)] == system
        assert ids == own[len(system) :]
    else:
        assert ids == template_ids(tokenizer, said, num_visual=4)


def split_at_images(content: str) -> list[str | None]:
    pieces: list[str | None] = []
    for number, text in enumerate(content.split("<|vision_start|><|image_pad|><|vision_end|>")):
        pieces += [None, text] if number else [text]
    return pieces
