"""Frames -> visual tokens, with the milliseconds of each stage."""

from __future__ import annotations

import time

from .config import ZoomConfig
from .models.base import Features, VisionLanguageModel
from .patches import PatchSpec, frames_to_patches
from .types import Clip


def encode_clip(
    clip: Clip, model: VisionLanguageModel, *, spec: PatchSpec, config: ZoomConfig
) -> tuple[Features, dict[str, float]]:
    """Visual tokens of all frames of the clip, in order, and {"patches": ms, "vision": ms}."""
    started = time.perf_counter()
    patches, grid_hw = frames_to_patches(clip.frames, config=config, spec=spec, dtype=model.dtype)
    patched = time.perf_counter()
    features = model.encode_images(patches, [grid_hw] * len(clip))
    ended = time.perf_counter()
    return features, {"patches": (patched - started) * 1e3, "vision": (ended - patched) * 1e3}
