"""What a session must know of a checkpoint, without its weights: to tokenise records on any machine."""

from __future__ import annotations

from functools import partial

from ..config import ZoomConfig
from ..protocol import Vocabulary
from ..video import PatchSpec, grid_for
from .load import Checkpoint, load_patch_spec, token_id


def load_vocabulary(name_or_path: str) -> Vocabulary:
    """Tokenizer and patch geometry of a folder in Hugging Face layout, or of a hub id.

    OSError where nothing is found, ValueError where it is no Qwen-VL checkpoint.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    spec = load_patch_spec(name_or_path)
    end_of_turn = token_id(tokenizer, "<|im_end|>", name_or_path)
    return Vocabulary(
        tokenizer=tokenizer,
        image_token_id=token_id(tokenizer, "<|image_pad|>", name_or_path),
        end_of_turn_id=end_of_turn,
        end_ids=frozenset({end_of_turn, token_id(tokenizer, "<|endoftext|>", name_or_path)}),
        merge=spec.merge_size,
        grid_hw=partial(_grid, spec=spec),
    )


def vocabulary_of(checkpoint: Checkpoint) -> Vocabulary:
    """The vocabulary of a checkpoint that is loaded."""
    return Vocabulary(
        tokenizer=checkpoint.tokenizer,
        image_token_id=checkpoint.model.image_token_id,
        end_of_turn_id=checkpoint.end_of_turn_id,
        end_ids=checkpoint.end_ids,
        merge=checkpoint.model.merge,
        grid_hw=partial(_grid, spec=checkpoint.patch_spec),
    )


def _grid(height: int, width: int, config: ZoomConfig, *, spec: PatchSpec) -> tuple[int, int]:
    return grid_for(height, width, config=config, spec=spec)
