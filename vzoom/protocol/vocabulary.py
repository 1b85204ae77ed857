"""What a session must know of a checkpoint: how text becomes tokens, and how many tokens a frame takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..config import ZoomConfig
from .tokenize import Tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """What a session must know of a model: its tokenizer, control tokens, and the grid that it gives a frame size."""

    tokenizer: Tokenizer
    image_token_id: int
    end_of_turn_id: int
    end_ids: frozenset[int]  # tokens that end a generation, end_of_turn_id among them
    merge: int
    grid_hw: Callable[[int, int, ZoomConfig], tuple[int, int]]  # (height, width) of a frame -> patches
