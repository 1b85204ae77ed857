"""Clips -> visual tokens, each distinct picture once: what was encoded is kept and found again by its pixels.

A picture is what the vision tower sees at a time: a frame as an image, or the frames of a temporal patch of a video.
The key is a digest of the pixels that its frames were decoded and resized to. So it is the same for the same moments of
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
    """Visual tokens of clips. New pictures of all clips, of any sizes, go through the vision tower together.

    Args:
        clips: each with the config that says how its frames are resized and encoded.
        model: encodes what is not in the cache.
        spec: the patch geometry of the model.
        cache: where visual tokens of pictures are found and kept.
        buffer: memory for the patches.

    Returns:
        The features of each clip, those of its pictures in order; and the milliseconds that all of it took, by stage:
        "patches" and "vision".
    """
    specs = {"image": replace(spec, temporal_patch_size=model.temporal_copies), "video": spec}
    stages = {"patches": 0.0, "vision": 0.0}
    started = time.perf_counter()
    pictures = [list(_pictures(clip, config, specs[config.protocol.frame.encoding])) for clip, config in clips]
    found: dict[Hashable, Features] = {}
    fresh: dict[Hashable, _Picture] = {}
    for picture in (one for own in pictures for one in own):
        if picture.key in found or picture.key in fresh:
            continue
        features = cache.lookup(picture.key)
        if features is not None:
            found[picture.key] = features
        else:
            fresh[picture.key] = picture
    stages["patches"] += (time.perf_counter() - started) * 1e3
    limit = _CPU_PATCHES if model.device.type == "cpu" else _GPU_PATCHES
    for batch in _in_batches(list(fresh.values()), limit):
        started = time.perf_counter()
        rows = [h * w for h, w in (one.grid_hw for one in batch)]
        patches = buffer.take(sum(rows), batch[0].spec, dtype=model.dtype, device=model.device)
        at = 0
        for _, same in groupby(batch, key=lambda one: (one.frames[0].shape, one.config)):
            part = list(same)
            end = at + len(part) * part[0].grid_hw[0] * part[0].grid_hw[1]
            stack = stack_frames([frame for one in part for frame in one.frames])
            frames_to_patches(
                stack,
                config=part[0].config,
                spec=part[0].spec,
                dtype=model.dtype,
                device=model.device,
                out=patches[at:end],
            )
            at = end
        patched = time.perf_counter()
        encoded = model.encode_images(patches, [one.grid_hw for one in batch])
        for one, features in zip(batch, encoded.split([n // model.merge**2 for n in rows]), strict=True):
            found[one.key] = features
            cache.keep(one.key, features.clone())  # a view would hold the features of the whole batch
        stages["patches"] += (patched - started) * 1e3
        stages["vision"] += (time.perf_counter() - patched) * 1e3
    return [Features.cat([found[one.key] for one in own]) for own in pictures], stages


@dataclass(frozen=True)
class _Picture:
    """A frame, or the frames of a temporal patch, and what is done to them."""

    key: Hashable
    frames: tuple[np.ndarray | Tensor, ...]  # [H, W, 3] each
    config: ZoomConfig
    spec: PatchSpec
    grid_hw: tuple[int, int]


def _pictures(clip: Clip, config: ZoomConfig, spec: PatchSpec) -> Iterator[_Picture]:
    grid_hw = grid_for(*clip.frames.shape[1:3], config=config, spec=spec)
    together = 1 if config.protocol.frame.encoding == "image" else spec.temporal_patch_size
    seen = digests(clip.frames)
    how = (
        tuple(clip.frames.shape[1:]),
        config.protocol.frame.encoding,
        config.protocol.pixels,
        config.min_pixels,
        config.max_pixels,
        spec,
    )
    for begin in range(0, len(clip), together):
        # The last frame of an odd number is shown twice.
        shown = [min(at, len(clip) - 1) for at in range(begin, begin + together)]
        key = tuple(seen[at] for at in shown), *how
        yield _Picture(key, tuple(clip.frames[at] for at in shown), config, spec, grid_hw)


def _in_batches(pictures: Sequence[_Picture], limit: int) -> Iterator[list[_Picture]]:
    """At most `limit` patches at a time, but at least one picture: this bounds the memory of the tower. Images and
    videos apart: their patches are not of one width."""
    for _, same in groupby(pictures, key=lambda picture: picture.config.protocol.frame.encoding):
        batch: list[_Picture] = []
        room = limit
        for picture in same:
            size = picture.grid_hw[0] * picture.grid_hw[1]
            if batch and size > room:
                yield batch
                batch, room = [], limit
            batch.append(picture)
            room -= size
        yield batch


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
