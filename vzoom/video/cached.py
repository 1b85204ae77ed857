"""A video as the engine reads it: through the clip cache, its frames already at the model's size.

What is kept is a few hundred KB a frame instead of megabytes, and overlapping zooms, further questions about the
same video and other sessions decode and resize a frame once.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Protocol

import numpy as np

from ..config import ZoomConfig
from ..types import Clip, VideoInfo
from . import ClipCache, Resize
from .patches import PatchSpec, resize_frames


class FrameSource(Protocol):
    """What the engine asks of a video."""

    info: VideoInfo

    def frames_at(self, timestamps: Sequence[float]) -> Clip: ...
    def close(self) -> None: ...


class CachedVideo:
    """The video at `path`, read through `cache`. Errors as those of `open_video` and `VideoReader.frames_at`."""

    def __init__(self, cache: ClipCache, path: str | PathLike[str], *, config: ZoomConfig, spec: PatchSpec) -> None:
        self._cache = cache
        self._reader = cache.reader(path)
        self.info = self._reader.info

        def resize(frame_HWC: np.ndarray) -> np.ndarray:
            return resize_frames(frame_HWC[None], config=config, spec=spec)[0]

        name = (config.resize, config.min_pixels, config.max_pixels, spec.factor)
        self._resize = Resize(name, resize)

    def frames_at(self, timestamps: Sequence[float]) -> Clip:
        return self._cache.frames_at(self._reader, timestamps, resize=self._resize)

    def close(self) -> None:
        """The reader belongs to the cache, which other sessions share."""
