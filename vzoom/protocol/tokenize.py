"""Parts of the protocol -> token ids, with the visual tokens in their places.

The sampler and every trainer use this one function, so neither ever tokenises again what the other wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from .render import ImagePart, Part, TextPart
from .text_codec import TextCodec


@dataclass
class TokenSpan:
    """Consecutive tokens of a conversation.

    `images[j]` is (frame index, offset of its first token in `ids`, grid (rows, columns) in patches).
    """

    ids: list[int] = field(default_factory=list)
    images: list[tuple[int, int, tuple[int, int]]] = field(default_factory=list)


def tokenize_parts(
    parts: Sequence[Part], grids_hw: Sequence[tuple[int, int]], codec: TextCodec, image_token_id: int, merge: int
) -> TokenSpan:
    """Tokenise what `render` gave.

    Args:
        parts: text and the places of frames, in order.
        grids_hw: grid (h, w) in patches of each frame; `ImagePart.index` points into it.
        codec: encodes the text. Added tokens are recognised in trusted text only.
        image_token_id: the id that stands for one visual token.
        merge: patches per side of one visual token.

    Returns:
        The tokens. Frame i takes (h / merge) * (w / merge) of them.
    """
    span = TokenSpan()
    for _, run in groupby(parts, key=type):
        texts: list[TextPart] = []
        for part in run:
            if isinstance(part, ImagePart):
                h, w = grids_hw[part.index]
                span.images.append((part.index, len(span.ids), (h, w)))
                span.ids += [image_token_id] * ((h // merge) * (w // merge))
            else:
                texts.append(part)
        span.ids += codec.encode_parts(texts)
    return span
