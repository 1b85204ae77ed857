"""Clips -> visual tokens, each distinct frame once: what was encoded is kept and found again by its pixels.

The key is a digest of the pixels that the frame was decoded and resized to, so it holds for the same moment of the same
video whoever asks (a glance and a zoom, two sessions, two calls of `ask`), and never for another picture: a re-encoded
file, another size or another backend gives other pixels. What is done to the pixels is part of the key.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from .config import ZoomConfig
from .models.base import Features, VisionLanguageModel
from .patches import PatchBuffer, PatchSpec, frames_to_patches, grid_for
from .types import Clip
from .video import CacheStats


class FeatureCache:
    """Visual tokens of frames in at most `max_bytes` of the model's memory, least recently used out first.

    Valid for one model. `clear` when its vision weights change. Used by one thread at a time.
    """

    def __init__(self, max_bytes: int = 512 << 20) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes must be 0 or more, got {max_bytes}")
        self.max_bytes = max_bytes
        self._held: OrderedDict[Hashable, Features] = OrderedDict()
        self._num_bytes = self._hits = self._misses = self._evictions = 0

    def lookup(self, key: Hashable) -> Features | None:
        features = self._held.get(key)
        if features is not None:
            self._held.move_to_end(key)
            self._hits += 1
        return features

    def keep(self, key: Hashable, features: Features) -> None:
        """Enter a frame that `lookup` did not find."""
        self._misses += 1
        if features.num_bytes > self.max_bytes:
            return
        while self._num_bytes + features.num_bytes > self.max_bytes:
            self._num_bytes -= self._held.popitem(last=False)[1].num_bytes
            self._evictions += 1
        self._held[key] = features
        self._num_bytes += features.num_bytes

    def clear(self) -> None:
        """Drop what is held; the counters go on."""
        self._held.clear()
        self._num_bytes = 0

    def stats(self) -> CacheStats:
        return CacheStats(self._hits, self._misses, self._evictions, len(self._held), self._num_bytes)


def encode_clips(
    clips: Sequence[tuple[Clip, ZoomConfig]],
    model: VisionLanguageModel,
    *,
    spec: PatchSpec,
    cache: FeatureCache,
    buffer: PatchBuffer,
) -> tuple[list[Features], dict[str, float]]:
    """Visual tokens of each clip, and {"patches": ms, "vision": ms} of all. One run of the tower for all new frames.

    Frames of any sizes together. The features of a clip are those of its frames, in order.
    """
    started = time.perf_counter()
    spec = replace(spec, temporal_patch_size=model.temporal_copies)
    keys = [[_key(frame, config, spec) for frame in clip.frames] for clip, config in clips]
    found: dict[Hashable, Features] = {}
    fresh: dict[Hashable, tuple[int, int]] = {}  # the grid of each frame that goes through the tower
    todo: list[tuple[np.ndarray, ZoomConfig]] = []
    for (clip, config), own in zip(clips, keys, strict=True):
        new: dict[Hashable, int] = {}
        for i, key in enumerate(own):
            if key in found or key in fresh or key in new:
                continue
            features = cache.lookup(key)
            if features is not None:
                found[key] = features
            else:
                new[key] = i
        if new:
            todo.append((clip.frames[list(new.values())], config))
            fresh |= dict.fromkeys(new, grid_for(*clip.frames.shape[1:3], config=config, spec=spec))
    patches = buffer.take(sum(h * w for h, w in fresh.values()), spec, dtype=model.dtype, device=model.device)
    filled = 0
    for frames, config in todo:
        h, w = grid_for(*frames.shape[1:3], config=config, spec=spec)
        rows = patches[filled : filled + len(frames) * h * w]
        frames_to_patches(frames, config=config, spec=spec, dtype=model.dtype, device=model.device, out=rows)
        filled += len(rows)
    patched = time.perf_counter()
    if fresh:
        encoded = model.encode_images(patches, list(fresh.values()))
        counts = [h * w // model.merge**2 for h, w in fresh.values()]
        for key, features in zip(fresh, encoded.split(counts), strict=True):
            found[key] = features
            cache.keep(key, features.clone())  # a view would hold the features of the whole batch
    ended = time.perf_counter()
    stages = {"patches": (patched - started) * 1e3, "vision": (ended - patched) * 1e3}
    return [Features.cat([found[key] for key in own]) for own in keys], stages


def _key(frame_HWC: np.ndarray, config: ZoomConfig, spec: PatchSpec) -> Hashable:
    digest = hashlib.blake2b(np.ascontiguousarray(frame_HWC).data, digest_size=16).digest()
    return digest, frame_HWC.shape, config.resize, config.min_pixels, config.max_pixels, spec
