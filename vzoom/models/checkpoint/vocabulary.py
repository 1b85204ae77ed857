"""What a session must know of a checkpoint, made in one way: with its weights, or without them on any machine."""

from __future__ import annotations

from functools import partial

from ...config import ZoomConfig
from ...protocol import Tokenizer, Vocabulary
from ...video import PatchSpec, grid_for
from .adapters import find_model
from .load import END_OF_TEXT, END_OF_TURN, Checkpoint, load_tokenizer, patch_spec_of, token_id


def load_vocabulary(name_or_path: str) -> Vocabulary:
    """The vocabulary of a checkpoint that is not loaded: its weights are not needed.

    Args:
        name_or_path: a folder in Hugging Face layout, or a hub id.

    Raises:
        OSError: nothing was found.
        ValueError: it is no Qwen-VL checkpoint.
    """
    folder, _ = find_model(name_or_path)
    return _vocabulary(load_tokenizer(folder), patch_spec_of(folder), name_or_path)


def vocabulary_of(checkpoint: Checkpoint) -> Vocabulary:
    """The vocabulary of a checkpoint that is loaded."""
    return _vocabulary(checkpoint.tokenizer, checkpoint.patch_spec, checkpoint.name)


def _vocabulary(tokenizer: Tokenizer, spec: PatchSpec, name: str) -> Vocabulary:
    end_of_turn = token_id(tokenizer, END_OF_TURN, name)
    return Vocabulary(
        tokenizer=tokenizer,
        image_token_id=token_id(tokenizer, "<|image_pad|>", name),
        end_of_turn_id=end_of_turn,
        end_ids=frozenset({end_of_turn, token_id(tokenizer, END_OF_TEXT, name)}),
        merge=spec.merge_size,
        grid_hw=partial(_grid, spec=spec),
    )


def _grid(height: int, width: int, config: ZoomConfig, *, spec: PatchSpec) -> tuple[int, int]:
    return grid_for(height, width, config=config, spec=spec)
