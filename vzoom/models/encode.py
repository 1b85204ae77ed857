"""Clips -> visual tokens, each distinct frame once: what was encoded is kept and found again by its pixels.

The key is a digest of the pixels that the frame was decoded and resized to. So it is the same for the same moment of
the same video whoever asks (a glance and a zoom, two sessions, two calls of `ask`), and never for another picture: a
re-encoded file, another size or another backend gives other pixels. What is done to the pixels is part of the key.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..config import ZoomConfig
from ..types import Clip
from ..video import PatchBuffer, PatchSpec, frames_to_patches, grid_for, stack_frames
from .feature_cache import FeatureCache
from .features import Features

_CPU_PATCHES = 2048
_GPU_PATCHES = 65536


class ImageEncoder(Protocol):
    """What encoding asks of a model: `VisionLanguageModel` has it."""

    device: torch.device
    dtype: torch.dtype
    merge: int
    temporal_copies: int

    def encode_images(self, patches: torch.Tensor, grid_hw: Sequence[tuple[int, int]]) -> Features: ...


def encode_clips(
    clips: Sequence[tuple[Clip, ZoomConfig]],
    model: ImageEncoder,
    *,
    spec: PatchSpec,
    cache: FeatureCache,
    buffer: PatchBuffer,
) -> tuple[list[Features], dict[str, float]]:
    """Visual tokens of clips. New frames of all clips, of any sizes, go through the vision tower together.

    Args:
        clips: each with the config that says how its frames are resized.
        model: encodes what is not in the cache.
        spec: the patch geometry of the model.
        cache: where visual tokens of frames are found and kept.
        buffer: memory for the patches.

    Returns:
        The features of each clip, those of its frames in order; and the milliseconds that all of it took, by stage:
        "patches" and "vision".
    """
    spec = replace(spec, temporal_patch_size=model.temporal_copies)
    stages = {"patches": 0.0, "vision": 0.0}
    started = time.perf_counter()
    keys = [[_key(digest, clip, config, spec) for digest in digests(clip.frames)] for clip, config in clips]
    found: dict[Hashable, Features] = {}
    fresh: dict[Hashable, _NewFrame] = {}
    for (clip, config), own in zip(clips, keys, strict=True):
        grid_hw = grid_for(*clip.frames.shape[1:3], config=config, spec=spec)
        for frame, key in zip(clip.frames, own, strict=True):
            if key in found or key in fresh:
                continue
            features = cache.lookup(key)
            if features is not None:
                found[key] = features
            else:
                fresh[key] = _NewFrame(key, frame, config, grid_hw)
    stages["patches"] += (time.perf_counter() - started) * 1e3
    limit = _CPU_PATCHES if model.device.type == "cpu" else _GPU_PATCHES
    for frames in _in_batches(list(fresh.values()), limit):
        started = time.perf_counter()
        rows = [h * w for h, w in (f.grid_hw for f in frames)]
        patches = buffer.take(sum(rows), spec, dtype=model.dtype, device=model.device)
        at = 0
        for _, same in groupby(frames, key=lambda f: (f.frame_HWC.shape, f.config)):
            part = list(same)
            end = at + len(part) * part[0].grid_hw[0] * part[0].grid_hw[1]
            stack = stack_frames([f.frame_HWC for f in part])
            out = patches[at:end]
            frames_to_patches(stack, config=part[0].config, spec=spec, dtype=model.dtype, device=model.device, out=out)
            at = end
        patched = time.perf_counter()
        encoded = model.encode_images(patches, [f.grid_hw for f in frames])
        for frame, features in zip(frames, encoded.split([n // model.merge**2 for n in rows]), strict=True):
            found[frame.key] = features
            cache.keep(frame.key, features.clone())  # a view would hold the features of the whole batch
        stages["patches"] += (patched - started) * 1e3
        stages["vision"] += (time.perf_counter() - patched) * 1e3
    return [Features.cat([found[key] for key in own]) for own in keys], stages


@dataclass(frozen=True)
class _NewFrame:
    key: Hashable
    frame_HWC: np.ndarray | Tensor
    config: ZoomConfig
    grid_hw: tuple[int, int]


def _in_batches(frames: Sequence[_NewFrame], limit: int) -> Iterator[list[_NewFrame]]:
    """At most `limit` patches at a time, but at least one frame: this bounds the memory of the tower."""
    batch: list[_NewFrame] = []
    room = limit
    for frame in frames:
        size = frame.grid_hw[0] * frame.grid_hw[1]
        if batch and size > room:
            yield batch
            batch, room = [], limit
        batch.append(frame)
        room -= size
    if batch:
        yield batch


def _key(digest: Hashable, clip: Clip, config: ZoomConfig, spec: PatchSpec) -> Hashable:
    resize = config.protocol.pixels.resize
    return digest, tuple(clip.frames.shape[1:]), resize, config.min_pixels, config.max_pixels, spec


def digests(frames_NHWC: np.ndarray | Tensor) -> list[Hashable]:
    """A digest of the pixels of each frame, where the frames are: from a GPU only 16 bytes a frame are copied."""
    if isinstance(frames_NHWC, np.ndarray):
        return [hashlib.blake2b(np.ascontiguousarray(f).data, digest_size=16).digest() for f in frames_NHWC]
    weights = _digest_weights(frames_NHWC[0].numel(), frames_NHWC.device)
    sums = [(weights * frame.reshape(-1).to(torch.int64)).sum(1) for frame in frames_NHWC]
    return [tuple(pair) for pair in torch.stack(sums).tolist()]


@lru_cache(maxsize=4)
def _digest_weights(length: int, device: torch.device) -> Tensor:
    """Random 64-bit weights [2, length]. Two frames have the same two sums with a chance of 2**-114 or less."""
    drawn = torch.Generator().manual_seed(0)
    return torch.randint(-(1 << 63), (1 << 63) - 1, (2, length), generator=drawn).to(device)
