"""Parts of the protocol -> token ids, with the visual tokens in their places.

The sampler and every trainer use this one function, so neither ever tokenises again what the other wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .render import ImagePart, Part


class Tokenizer(Protocol):
    """What vzoom asks of a tokenizer; `transformers` fast tokenizers have it."""

    def encode(self, text: str, **kwargs: Any) -> list[int]: ...
    def decode(self, ids: Sequence[int], **kwargs: Any) -> str: ...
    def convert_tokens_to_ids(self, token: str) -> int: ...


@dataclass
class TokenSpan:
    """Consecutive tokens of a conversation.

    `images[j]` is (frame index, offset of its first token in `ids`, grid (rows, columns) in patches).
    """

    ids: list[int] = field(default_factory=list)
    images: list[tuple[int, int, tuple[int, int]]] = field(default_factory=list)


def tokenize_parts(
    parts: Sequence[Part], grids_hw: Sequence[tuple[int, int]], tokenizer: Tokenizer, image_token_id: int, merge: int
) -> TokenSpan:
    """Tokenise what `render` gave.

    Args:
        parts: text and the places of frames, in order.
        grids_hw: grid (h, w) in patches of each frame; `ImagePart.index` points into it.
        tokenizer: encodes the text. Control tokens are recognised in trusted text only.
        image_token_id: the id that stands for one visual token.
        merge: patches per side of one visual token.

    Returns:
        The tokens. Frame i takes (h / merge) * (w / merge) of them.
    """
    span = TokenSpan()
    for part in parts:
        if isinstance(part, ImagePart):
            h, w = grids_hw[part.index]
            span.images.append((part.index, len(span.ids), (h, w)))
            span.ids += [image_token_id] * ((h // merge) * (w // merge))
        elif part.text:
            # Without split_special_tokens a question that spells <|im_end|> would end the user's turn.
            span.ids += tokenizer.encode(part.text, add_special_tokens=False, split_special_tokens=not part.trusted)
    return span
