"""Parts of the protocol -> token ids, with the visual tokens in their places.

The sampler and every trainer use this one function, so neither ever re-tokenises what the other wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .render import Image, Part


class Tokenizer(Protocol):
    """What vzoom asks of a tokenizer; `transformers` fast tokenizers have it."""

    def encode(self, text: str, **kwargs: Any) -> list[int]: ...
    def decode(self, ids: Sequence[int], **kwargs: Any) -> str: ...
    def convert_tokens_to_ids(self, token: str) -> int: ...


@dataclass
class Run:
    """Tokens to feed. `images[j]` is (frame index, offset of its first token in `ids`, grid in patches)."""

    ids: list[int] = field(default_factory=list)
    images: list[tuple[int, int, tuple[int, int]]] = field(default_factory=list)


def lay_out(
    parts: Sequence[Part], grids_hw: Sequence[tuple[int, int]], tokenizer: Tokenizer, image_token_id: int, merge: int
) -> Run:
    """Tokenise `parts`; frame i takes (h / merge) * (w / merge) image tokens for its grid (h, w) of patches."""
    run = Run()
    for part in parts:
        if isinstance(part, Image):
            h, w = grids_hw[part.index]
            run.images.append((part.index, len(run.ids), (h, w)))
            run.ids += [image_token_id] * ((h // merge) * (w // merge))
        elif part.text:
            # Without split_special_tokens a question that spells <|im_end|> would end the user's turn.
            run.ids += tokenizer.encode(part.text, add_special_tokens=False, split_special_tokens=not part.trusted)
    return run
