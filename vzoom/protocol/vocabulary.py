"""What a session must know of a checkpoint: how text becomes tokens, and how many tokens a frame takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .text_codec import TextCodec


@dataclass(frozen=True)
class Vocabulary:
    """The text codec of a model, its control tokens, and the grid that a frame of a given size gets.

    `models.vocabulary_of` and `models.load_vocabulary` make one.

    Attributes:
        codec: text <-> token ids.
        image_token_id: the id that stands for one visual token.
        end_of_turn_id: the id that ends a turn of either side.
        end_ids: the ids that end a generation; end_of_turn_id is one of them.
        merge: patches per side of one visual token.
        grid_hw: (height, width in pixels, `ZoomConfig`) of a frame -> (rows, columns) of patches.
        untagged_answers: whether a turn that ends without any tag is the answer: nobody trained the model for tags.
    """

    codec: TextCodec
    image_token_id: int
    end_of_turn_id: int
    end_ids: frozenset[int]
    merge: int
    grid_hw: Callable[[int, int, Any], tuple[int, int]]
    untagged_answers: bool = False
