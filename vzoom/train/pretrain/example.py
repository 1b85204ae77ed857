"""A training example: tokens, which of them are learned, and the frames between them.

It is laid out by `protocol` and `layout`, as the engine does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...config import ZoomConfig
from ...protocol import (
    ImagePart,
    Part,
    TextPart,
    Tokenizer,
    TokenSpan,
    prompt,
    tokenize_parts,
    tool_turn,
    zoom_timestamps,
)
from ...types import Malformed, ZoomCall
from .frame_store import BankedVideo

MERGE = 2


@dataclass
class Example:
    """ids[i] is learned where learned[i]. frames: (video number, row in the bank) of each image, in order."""

    run: TokenSpan = field(default_factory=TokenSpan)
    learned: list[bool] = field(default_factory=list)
    frames: list[tuple[int, int]] = field(default_factory=list)
    turn_ends: list[int] = field(default_factory=list)  # index behind each learned turn, for greedy checks


class CachedTokenizer:
    """The same tokens as `tokenizer`, remembered: dialogues repeat a few hundred pieces of text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[tuple[Any, ...], list[int]] = {}

    def encode(self, text: str, **kwargs: Any) -> list[int]:
        key = (text, tuple(sorted(kwargs.items())))
        if key not in self._cache:
            self._cache[key] = self._tokenizer.encode(text, **kwargs)
        return self._cache[key]

    def decode(self, ids: Sequence[int], **kwargs: Any) -> str:
        return self._tokenizer.decode(ids, **kwargs)

    def convert_tokens_to_ids(self, token: str) -> int:
        return self._tokenizer.convert_tokens_to_ids(token)


class Layout:
    """Puts examples together from banked videos. side: of a frame in pixels; rng: owned by the caller."""

    def __init__(self, tokenizer: Tokenizer, config: ZoomConfig, *, side: int, rng: np.random.Generator) -> None:
        self.tokenizer, self.config, self.rng = CachedTokenizer(tokenizer), config, rng
        self.grid = (side // 14, side // 14)
        self.image_token = tokenizer.convert_tokens_to_ids("<|image_pad|>")

    def put_prompt(
        self, example: Example, banked: BankedVideo, text: str, max_zooms: int, *, times: Sequence[float]
    ) -> None:
        info = banked.video.info()
        parts = prompt(
            text,
            info,
            times,
            max_zooms=max_zooms,
            zoom_max_frames=self.config.zoom_max_frames,
            style=self.config.prompt,
        )
        self._add(example, parts, banked, times)

    def put_clip(self, example: Example, banked: BankedVideo, call: ZoomCall, *, zooms_left: int) -> None:
        times = zoom_timestamps(call, banked.video.info(), self.config)
        if isinstance(times, Malformed):
            raise ValueError(f"the oracle's own call is malformed: {times}")
        self._add(example, tool_turn(times, "", zooms_left=zooms_left, style=self.config.prompt), banked, times)

    def put_frames(self, example: Example, banked: BankedVideo, times: Sequence[float]) -> None:
        parts: list[Part] = []
        for i, t in enumerate(times):
            parts += [TextPart(f"{t:.2f}s<|vision_start|>"), ImagePart(i), TextPart("<|vision_end|>")]
        self._add(example, parts, banked, times)

    def write(self, example: Example, text: str, *, learned: bool) -> None:
        self._add(example, [TextPart(text)], None, [], learned=learned)
        if learned:
            example.turn_ends.append(len(example.run.ids))

    def _add(
        self,
        example: Example,
        parts: Sequence[Part],
        banked: BankedVideo | None,
        times: Sequence[float],
        *,
        learned: bool = False,
    ) -> None:
        piece = tokenize_parts(parts, [self.grid] * len(times), self.tokenizer, self.image_token, MERGE)
        offset = len(example.run.ids)
        for index, start, grid in piece.images:
            example.run.images.append((len(example.frames), offset + start, grid))
            assert banked is not None
            example.frames.append((banked.number, banked.index_of(times[index])))
        example.run.ids += piece.ids
        example.learned += [learned] * len(piece.ids)
