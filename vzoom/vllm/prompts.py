"""Tokens and frames of a session -> what vLLM is given: prompts, sampling parameters, tokens that stop it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..config import Sampling, ZoomConfig
from ..protocol import Protocol, Vocabulary, stops
from ..types import Clip
from ..video import PatchSpec, resize_frames

_BAN = -100.0  # what vLLM's logit_bias may be at most: a banned token is e**100 times less likely


@dataclass(frozen=True)
class Frame:
    """A frame at the model's size.

    Attributes:
        pixels: uint8 [height, width, 3], RGB.
        content_id: the same for the same pixels: vLLM processes and encodes each content once.
    """

    pixels: np.ndarray
    content_id: str


@dataclass(frozen=True)
class PlacedFrame:
    """A frame in a prompt: its visual tokens are the `num_tokens` from `offset` on."""

    frame: Frame
    offset: int
    num_tokens: int


def frames_of(clip: Clip, config: ZoomConfig, spec: PatchSpec) -> list[Frame]:
    """The frames of a clip at the size at which the model sees them."""
    resized = resize_frames(clip.images, config=config, spec=spec)
    return [Frame(one, _content_id(one)) for one in resized]


def _content_id(pixels: np.ndarray) -> str:
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).hexdigest()
    return f"{pixels.shape[0]}x{pixels.shape[1]}-{digest}"


def prompt_of(ids: Sequence[int], frames: Iterable[PlacedFrame], image_token_id: int) -> dict[str, Any]:
    """A prompt for vLLM's renderer, which puts the visual tokens of each image in place of one.

    Args:
        ids: with all visual tokens.
        frames: in the order of their offsets in `ids`.
        image_token_id: the id that stands for one visual token.
    """
    from PIL import Image

    short: list[int] = []
    at = 0
    shown = list(frames)
    for one in shown:
        short += [*ids[at : one.offset], image_token_id]
        at = one.offset + one.num_tokens
    short += ids[at:]
    prompt: dict[str, Any] = {"prompt_token_ids": short}
    if shown:
        prompt["multi_modal_data"] = {"image": [Image.fromarray(one.frame.pixels) for one in shown]}
        prompt["multi_modal_uuids"] = {"image": [one.frame.content_id for one in shown]}
    return prompt


@lru_cache(maxsize=16)
def stop_ids(vocabulary: Vocabulary, protocol: Protocol, num_tokens: int) -> tuple[int, ...]:
    """The tokens that may end a turn: those that end a generation, and those whose text can complete a closing text.

    vLLM stops after each of them. Whether the turn is over is then for the session to say.

    Args:
        vocabulary: of the model.
        protocol: which texts end a turn.
        num_tokens: how many ids there are.
    """
    endings = stops(protocol)
    found = set(vocabulary.end_ids)
    for token in range(num_tokens):
        text = vocabulary.codec.decode([token])
        if any(_may_complete(text, ending) for ending in endings):
            found.add(token)
    return tuple(sorted(found))


def _may_complete(text: str, ending: str) -> bool:
    """Whether `ending` may be complete within `text`, whatever came before it."""
    return ending in text or any(text.startswith(ending[-length:]) for length in range(1, len(ending)))


def sampling_params(
    sampling: Sampling, *, max_tokens: int, stop_token_ids: Sequence[int], banned_ids: Sequence[int], num_before: int
) -> Any:
    """vLLM's `SamplingParams`.

    Args:
        sampling: how tokens are chosen.
        max_tokens: how many at most.
        stop_token_ids: vLLM stops after each of them.
        banned_ids: never chosen.
        num_before: tokens of the conversation that were sampled under another request of vLLM: its random stream
            starts anew, and must not repeat the numbers that it gave there.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        seed=(sampling.seed + num_before * 0x9E3779B1) % (1 << 63) if sampling.temperature > 0 else None,
        max_tokens=max_tokens,
        stop_token_ids=list(stop_token_ids),
        ignore_eos=True,  # the ends of a generation are among stop_token_ids
        logprobs=0,
        logit_bias=dict.fromkeys(banned_ids, _BAN),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
