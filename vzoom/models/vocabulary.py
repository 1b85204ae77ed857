"""What a session must know of a checkpoint, made in one way: with its weights, or without them on any machine."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..config import ZoomConfig
from ..protocol import TextCodec, Vocabulary
from ..video import PatchSpec, grid_for
from .checkpoint.generation import end_ids_of
from .load import END_OF_TEXT, END_OF_TURN, Checkpoint, generation_settings, load_patch_spec, token_id


def load_vocabulary(name_or_path: str) -> Vocabulary:
    """The vocabulary of a checkpoint that is not loaded: its weights are not needed.

    Args:
        name_or_path: a folder in Hugging Face layout, or a hub id.

    Raises:
        OSError: nothing was found.
        ValueError: it is no Qwen-VL checkpoint, or its tokenizer is a slow one.
    """
    from transformers import AutoTokenizer

    return build_vocabulary(AutoTokenizer.from_pretrained(name_or_path), load_patch_spec(name_or_path), name_or_path)


def vocabulary_of(checkpoint: Checkpoint) -> Vocabulary:
    """The vocabulary of a checkpoint that is loaded."""
    return build_vocabulary(checkpoint.tokenizer, checkpoint.patch_spec, checkpoint.name)


def build_vocabulary(tokenizer: Any, spec: PatchSpec, name: str) -> Vocabulary:
    """The vocabulary of a tokenizer.

    Args:
        tokenizer: transformers' own, a fast one.
        spec: the patch geometry of the model.
        name: of the checkpoint, for errors.

    Raises:
        ValueError: it is no tokenizer of a Qwen-VL checkpoint, or a slow one.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"the tokenizer of {name} is a slow one ({type(tokenizer).__name__}): vzoom needs its tokenizer.json"
        )
    end_of_turn = token_id(tokenizer, END_OF_TURN, name)
    return Vocabulary(
        codec=TextCodec(backend),
        image_token_id=token_id(tokenizer, "<|image_pad|>", name),
        end_of_turn_id=end_of_turn,
        end_ids=end_ids_of(generation_settings(name)) | {end_of_turn, token_id(tokenizer, END_OF_TEXT, name)},
        merge=spec.merge_size,
        grid_hw=partial(_grid, spec=spec),
    )


def _grid(height: int, width: int, config: ZoomConfig, *, spec: PatchSpec) -> tuple[int, int]:
    return grid_for(height, width, config=config, spec=spec)
