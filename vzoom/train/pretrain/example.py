"""A training example: tokens, which of them are learned, and the frames between them.

`vzoom.protocol` renders and tokenizes it, as for the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ...config import ZoomConfig
from ...protocol import Part, TextCodec, TextPart, TokenSpan, frame_parts, prompt, tokenize_parts
from .frame_store import StoredVideo

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

MERGE = 2


@dataclass
class Example:
    """A training example.

    Args:
        span: its tokens and the places of its images.
        learned: per token, whether it is learned.
        frames: (video number, row) in the frame store of each image, in order.
        turn_ends: index after the last token of each learned piece, for greedy checks.
    """

    span: TokenSpan = field(default_factory=TokenSpan)
    learned: list[bool] = field(default_factory=list)
    frames: list[tuple[int, int]] = field(default_factory=list)
    turn_ends: list[int] = field(default_factory=list)


class CachedCodec(TextCodec):
    """A codec that remembers what it encoded: conversations repeat a few hundred pieces of text."""

    def __init__(self, backend: Backend) -> None:
        self._cache: dict[str, list[int]] = {}
        super().__init__(backend)

    def encode_plain(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = super().encode_plain(text)
        return self._cache[text]


class ExampleWriter:
    """Writes text and frames into examples.

    Args:
        tokenizer: of the model, transformers' own.
        config: limits and prompt.
        side: of a frame, in pixels.
        rng: for all that a task draws.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, config: ZoomConfig, *, side: int, rng: np.random.Generator
    ) -> None:
        self.codec, self.config, self.rng = CachedCodec(tokenizer.backend_tokenizer), config, rng
        self.grid = (side // 14, side // 14)
        self.image_token = tokenizer.convert_tokens_to_ids("<|image_pad|>")

    def put_prompt(
        self, example: Example, stored: StoredVideo, text: str, max_zooms: int, *, times: Sequence[float]
    ) -> None:
        """The opening of a conversation: the question after frames at these times."""
        info = stored.video.info()
        parts = prompt(text, info, times, replace(self.config, max_zooms=max_zooms))
        self.put(example, parts, stored, times)

    def put_frames(self, example: Example, stored: StoredVideo, times: Sequence[float]) -> None:
        """Frames with their times, and nothing else."""
        self.put(example, frame_parts(times, stored.video.info(), self.config.protocol), stored, times)

    def write(self, example: Example, text: str, *, learned: bool) -> None:
        """TextPart that the model reads, or learns to write."""
        self.put(example, [TextPart(text)], None, [], learned=learned)
        if learned:
            example.turn_ends.append(len(example.span.ids))

    def put(
        self,
        example: Example,
        parts: Sequence[Part],
        stored: StoredVideo | None,
        times: Sequence[float],
        *,
        learned: bool = False,
    ) -> None:
        """Rendered parts, with frames of a stored video at `times` in the places of the images."""
        piece = tokenize_parts(parts, [self.grid] * len(times), self.codec, self.image_token, MERGE)
        offset = len(example.span.ids)
        for block in piece.blocks:
            moved = replace(block, first_frame=len(example.frames), offset=offset + block.offset)
            example.span.blocks.append(moved)
            assert stored is not None
            example.frames.append((stored.number, stored.index_of(times[block.first_frame])))
        example.span.ids += piece.ids
        example.learned += [learned] * len(piece.ids)
