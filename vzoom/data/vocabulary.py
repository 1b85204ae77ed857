"""What a session must know of a checkpoint, without its weights: to tokenise records on any machine."""

from __future__ import annotations

from functools import partial

from ..config import ZoomConfig
from ..models.load import token_id
from ..patches import PatchSpec, grid_for
from ..session import Vocabulary


def load_vocabulary(name_or_path: str) -> Vocabulary:
    """Tokenizer and patch geometry of a folder in Hugging Face layout, or of a hub id.

    OSError where nothing is found, ValueError where it is no Qwen-VL checkpoint.
    """
    from transformers import AutoTokenizer
    from transformers.models.auto.image_processing_auto import get_image_processor_config

    tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    preprocessor = get_image_processor_config(name_or_path)
    if not preprocessor:
        raise ValueError(f"{name_or_path} has no preprocessor_config.json: copy one from the base")
    spec = PatchSpec.from_dict(preprocessor, name_or_path)
    end_of_turn = token_id(tokenizer, "<|im_end|>", name_or_path)
    return Vocabulary(
        tokenizer=tokenizer,
        image_token_id=token_id(tokenizer, "<|image_pad|>", name_or_path),
        end_of_turn_id=end_of_turn,
        end_ids=frozenset({end_of_turn, token_id(tokenizer, "<|endoftext|>", name_or_path)}),
        merge=spec.merge_size,
        grid_hw=partial(_grid, spec=spec),
    )


def _grid(height: int, width: int, config: ZoomConfig, *, spec: PatchSpec) -> tuple[int, int]:
    return grid_for(height, width, config=config, spec=spec)
