"""A trained model as a folder that `vzoom.load` and stock transformers read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ...config import ZoomConfig

_PROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "patch_size": 14,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_convert_rgb": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
}


def export(model: Any, tokenizer: Any, config: ZoomConfig, folder: Path) -> None:
    """Write weights, configs, tokenizer, processor values and vzoom.json.

    The weights are rounded to bfloat16 on disk; config.json says float32, so that they are used as that.

    Args:
        model: keeps its dtype.
        tokenizer: of the model.
        config: written as vzoom.json.
        folder: made if it does not exist.
    """
    from safetensors.torch import load_file, save_file
    from transformers import GenerationConfig

    folder.mkdir(parents=True, exist_ok=True)
    text = model.config.text_config
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id, bos_token_id=text.bos_token_id
    )
    model.save_pretrained(folder)
    weights = folder / "model.safetensors"
    save_file({k: v.to(torch.bfloat16) for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors writes files that only their owner can read
    tokenizer.save_pretrained(folder)
    processor = {**_PROCESSOR, "size": {"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1) + "\n")
    config.save(folder / "vzoom.json")
