"""What stock transformers computes for a conversation: the truth that splicing is held to.

N sampled tokens, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..config import ZoomConfig
from ..protocol import RopeRule
from ..types import Clip, Trajectory, Visual
from ..video import PatchSpec, frames_to_patches


@torch.inference_mode()
def full_prefill(
    hf: Any, trajectory: Trajectory, pixels: Mapping[str, Tensor], *, rule: RopeRule = "max"
) -> tuple[Tensor, Tensor]:
    """Feed a whole conversation to transformers in one run, with positions of its own.

    Args:
        hf: transformers' model object.
        trajectory: the conversation. Its last sampled token is not fed.
        pixels: of all frames, in order: "pixel_values" if they are images, "pixel_values_videos" if they are videos.
        rule: where text stands after a video. "hf523" is what `get_rope_index` of transformers 5.23 says; for "max" it
            is asked piece by piece, and each piece begins where its own `rope_deltas` says that the last one ends.

    Returns:
        Logits [N, V] before the sampled tokens, float32 on the CPU, and transformers' positions [3, T - 1].
    """
    ids = torch.tensor([trajectory.ids[:-1]])
    positions = stock_positions(hf, ids, trajectory.visuals, rule=rule)
    at = torch.tensor([i - 1 for i, sampled in enumerate(trajectory.sampled) if sampled])
    inputs = {"input_ids": ids, "position_ids": positions[:, None], **_grids(trajectory.visuals), **_kinds(hf, ids)}
    inputs |= {name: pixels[name] for name in ("pixel_values", "pixel_values_videos") if name in pixels}
    inputs["attention_mask"] = torch.ones_like(ids)
    placed = {name: tensor.to(hf.device) for name, tensor in inputs.items()}
    logits = hf(**placed, use_cache=False, logits_to_keep=at.to(hf.device)).logits[0]
    return logits.float().cpu(), positions


def stock_positions(hf: Any, ids: Tensor, visuals: Sequence[Visual], *, rule: RopeRule) -> Tensor:
    """Positions [3, T] of ids [1, T] by transformers' `get_rope_index`. See `full_prefill` for `rule`."""
    ends = [visual.offset + visual.num_tokens for visual in visuals if visual.is_video and rule == "max"]
    pieces, begin, start = [], 0, 0
    for end in dict.fromkeys([*ends, ids.shape[1]]):
        own = [visual for visual in visuals if begin <= visual.offset < end]
        inputs = {**_grids(own), **_kinds(hf, ids[:, begin:end])}
        if any(visual.is_video for visual in own) and hasattr(hf.config.vision_config, "tokens_per_second"):
            seconds = [visual.seconds_per_patch for visual in own if visual.is_video]
            inputs["second_per_grid_ts"] = torch.tensor(seconds)
        positions, deltas = hf.model.get_rope_index(ids[:, begin:end], **inputs)
        pieces.append(positions[:, 0] + start)
        start += int(deltas[0]) + end - begin
        begin = end
    return torch.cat(pieces, dim=1)


def _grids(visuals: Sequence[Visual]) -> dict[str, Tensor]:
    """The grids as transformers takes them. Qwen3-VL writes each temporal patch by itself: as a video of its own."""
    images = [visual.grid_thw for visual in visuals if not visual.is_video]
    videos = [visual.grid_thw for visual in visuals if visual.is_video]
    named = {"image_grid_thw": images, "video_grid_thw": videos}
    return {name: torch.tensor(grids) for name, grids in named.items() if grids}


def _kinds(hf: Any, ids: Tensor) -> dict[str, Tensor]:
    if "mm_token_type_ids" not in inspect.signature(hf.model.get_rope_index).parameters:
        return {}
    return {"mm_token_type_ids": (ids == hf.config.image_token_id).int() + 2 * (ids == hf.config.video_token_id).int()}


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


def video_pixels(
    trajectory: Trajectory, clips: Sequence[Clip], config: ZoomConfig, spec: PatchSpec
) -> Mapping[str, Tensor]:
    """The pixels of a conversation's clips as videos: our own, because transformers' video processor needs torchvision.
    The tests hold them to it."""
    made, at, left = [], 0, list(clips)
    for visual in trajectory.visuals:
        count = len(visual.pts_seconds)
        if at == len(left[0]):
            left.pop(0)
            at = 0
        made.append(frames_to_patches(left[0].part(at, count).frames, config=config, spec=spec)[0])
        at += count
    return {"pixel_values_videos": torch.cat(made)}
