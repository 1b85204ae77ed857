"""What stock transformers computes for a conversation: the truth that splicing is held to.

N sampled tokens, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..types import Clip, Trajectory


@torch.inference_mode()
def full_prefill(hf: Any, trajectory: Trajectory, images: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Feed a whole conversation to transformers in one run, with positions of its own.

    Args:
        hf: transformers' model object.
        trajectory: the conversation. Its last sampled token is not fed.
        images: "pixel_values" and "image_grid_thw" of all frames, in order.

    Returns:
        Logits [N, V] before the sampled tokens, float32 on the CPU, and transformers' positions [3, T - 1].
    """
    ids = torch.tensor([trajectory.ids[:-1]])
    inputs: dict[str, Tensor] = {"image_grid_thw": images["image_grid_thw"], "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in inspect.signature(hf.model.get_rope_index).parameters:
        inputs["mm_token_type_ids"] = (ids == hf.config.image_token_id).int()
    positions, _ = hf.model.get_rope_index(ids, **inputs)
    at = torch.tensor([i - 1 for i, sampled in enumerate(trajectory.sampled) if sampled])
    inputs |= {"input_ids": ids, "position_ids": positions, "pixel_values": images["pixel_values"]}
    placed = {name: tensor.to(hf.device) for name, tensor in inputs.items()}
    logits = hf(**placed, use_cache=False, logits_to_keep=at.to(hf.device)).logits[0]
    return logits.float().cpu(), positions[:, 0]


def stock_images(name: str, clips: Sequence[Clip]) -> Mapping[str, Tensor]:
    """What transformers' own image processor on Pillow makes of frames that already have the model's size."""
    try:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil as Processor
    except ModuleNotFoundError:  # older versions: the plain name once meant this one
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor as Processor
    processor: Any = Processor.from_pretrained(name)
    frames = [frame for clip in clips for frame in clip.images]
    made: Mapping[str, Tensor] = processor(images=frames, do_resize=False, return_tensors="pt")
    return made
