"""A small byte-level BPE tokenizer: any text encodes, and text about the rendered videos is short.

An integer up to 127, the ".50s" of a frame's label and the fixed part of a call are one token each, so the time that
a label shows and the time that a call asks for are the same token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...config import ZoomConfig
from ...protocol import Protocol, TextPart, glance_timestamps, prompt, render_call, tool_turn
from ...synthetic import COLOURS, FAMILIES, SHAPES, Flaw, ask, config_for, make_training_video, oracle_turns
from ...types import ZoomCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_LARGEST_INTEGER = 127
_SPLIT = "|".join(
    (
        r" \([A-D]\)",  # an option as thoughts name it,
        r"[A-D]:(?= )",  # as questions list it
        r" \p{L}+ (?=\d)",  # " from ": what leads to a time, so that the time is the next token
        r", (?=\d)",
        "{call}",
        r"\.\d\ds",
        r"\.\d+",
        r"\d{1,3}",
        r" ?\p{L}+",
        r"\n",
        r"[^\S\n]+",
        r" ?[^\s\p{L}\p{N}]",
    )
)


def whole_tags(protocol: Protocol) -> tuple[str, ...]:
    """The tags of a protocol, each of which becomes one token."""
    return (*protocol.tags, *protocol.tool_tags)


def _fixed_parts(protocol: Protocol) -> str:
    """A regular expression for what every call has between its numbers: each such part becomes one token."""
    call = render_call(ZoomCall(1, 2, 3), protocol).removeprefix(protocol.call.open).removesuffix(protocol.call.close)
    parts = [part for part in re.split(r"\d", call) if re.search(r"[a-z]", part)]
    return "|".join(re.sub(r"([\[\]{}().*+?|\\])", r"\\\1", part) for part in parts)


def build_tokenizer(protocol: Protocol) -> PreTrainedTokenizerFast:
    """Train the tokenizer on conversations of every family of questions.

    Args:
        protocol: the protocol that the conversations are held in.

    Returns:
        The same tokenizer every time.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT.replace("{call}", _fixed_parts(protocol))), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,  # never reached: every word becomes one token
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_texts(protocol), trainer)
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in whole_tags(protocol)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[3:]),
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )


def _texts(protocol: Protocol) -> Iterator[str]:
    """Every word at least twice, and enough conversations for the rest."""
    numbers = range(_LARGEST_INTEGER + 1)
    for _ in range(2):
        yield from (str(n) for n in numbers)
        yield from (f".{n:02d}s" for n in range(100))
        yield from (f".{n}" for n in (1, 12, 2, 25, 3, 38, 4, 5, 6, 62, 7, 75, 8, 88, 9))
        yield from (f" {word} {word}" for word in (*COLOURS, *SHAPES))
        yield "That is red."
    config, rng = ZoomConfig(protocol=protocol), np.random.default_rng(0)
    for index in range(200):
        family = FAMILIES[index % len(FAMILIES)]
        video = make_training_video(index, config_for(family))
        question = ask(video, family, rng)
        for max_zooms in (0, 4):
            times = glance_timestamps(video.info(), config)
            text, info = question.text, video.info()
            parts = prompt(text, info, times, replace(config, max_zooms=max_zooms))
            shown = [(ZoomCall(0, info.duration_seconds, 1), times)]
            parts += tool_turn(shown, info, config, question=text, zooms_left=max_zooms)
            flaw: Flaw = "elsewhere" if index % 2 else "none"
            turns = oracle_turns(video, question, config, max_zooms=max_zooms, rng=rng, flaw=flaw)
            texts = [part.text for part in parts if isinstance(part, TextPart)]
            texts += [turn.text(protocol) for turn in turns]
            for text in texts:
                for tag in (*SPECIAL, *whole_tags(protocol)):
                    text = text.replace(tag, "\n")
                yield text
