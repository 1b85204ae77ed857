"""What fills the visual tokens of training samples: pixels for a tower in training, or its features if it is frozen.

Frames are read, resized, cut into patches and encoded by the code that the engine runs, so a trainer sees what the
engine saw. A frozen tower encodes each distinct frame once; a file keeps the features for a run that is resumed.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch

from ...data import check_video
from ...models import FAMILIES, FeatureCache, Features, ImageEncoder, encode_clips
from ...types import Clip
from ...video import ClipCache, PatchBuffer, PatchSpec, frames_to_patches
from .feature_rows import FileRows, MemoryRows
from .samples import FrameRef, Sample


class Visuals(Protocol):
    """What `collate` puts in pixel_values and pixel_values_videos. rows_per_token: rows of it for one visual token."""

    rows_per_token: int

    def find(self, samples: Sequence[Sample]) -> Callable[[], torch.Tensor]:
        """Read or encode the samples' frames, now and once.

        Returns:
            A function that gives [rows, width] of all frames of all samples, in order, as often as it is called. Until
            then it holds what is smaller: pixels themselves, but of features only the numbers of their rows.
        """
        ...


def read_frames(sample: Sample, times: Sequence[float], *, cache: ClipCache, spec: PatchSpec) -> Clip:
    """Read a sample's frames at the model's size.

    Args:
        sample: says which video, and how large its frames are made.
        times: seconds on display, distinct.
        cache: of decoded clips.
        spec: of the checkpoint's patches.

    Raises:
        ValueError: the file holds other bytes than when the sample was made, or other frames than it names.
    """
    check_video(sample.video)
    video = cache.open(sample.video.path, config=sample.config, spec=spec)
    clip = video.frames_at(times)
    if len(clip) != len(times) or any(clip.clamped):
        raise ValueError(
            f"conversation {sample.id} names {len(times)} frames of {sample.video.path} from {min(times):g} to "
            f"{max(times):g} s, but there are {len(clip) - sum(clip.clamped)}: was it recorded from another file?"
        )
    return clip


def _grid(clip: Clip, spec: PatchSpec) -> tuple[int, int]:
    height, width = clip.frames.shape[1:3]
    return height // spec.patch_size, width // spec.patch_size


def _check_grid(sample: Sample, grid_hw: tuple[int, int]) -> None:
    for frame in sample.frames:
        if frame.grid_hw != grid_hw:
            raise ValueError(
                f"conversation {sample.id}: its tokens were laid out for frames of {frame.grid_hw} patches, but "
                f"{frame.path} gives {grid_hw}"
            )


def _shown(frame: FrameRef, spec: PatchSpec) -> tuple[float, ...]:
    """The times of the frames that the tower sees: the last one of a temporal patch that is not full comes again."""
    missing = spec.temporal_patch_size - len(frame.pts_seconds) if frame.is_video else 0
    return frame.pts_seconds + frame.pts_seconds[-1:] * missing


class Pixels:
    """Patches for the checkpoint's own tower, each image twice in time, as transformers' processors make them."""

    def __init__(self, spec: PatchSpec, *, clip_cache: ClipCache | None = None) -> None:
        self.spec = spec
        self.rows_per_token = spec.merge_size**2
        self._cache = clip_cache or ClipCache()

    def find(self, samples: Sequence[Sample]) -> Callable[[], torch.Tensor]:
        width = 3 * self.spec.temporal_patch_size * self.spec.patch_size**2
        rows = torch.cat([torch.empty(0, width), *(self._patches(sample) for sample in samples if sample.frames)])
        return lambda: rows

    def _patches(self, sample: Sample) -> torch.Tensor:
        times = sorted({seconds for frame in sample.frames for seconds in frame.pts_seconds})
        clip = read_frames(sample, times, cache=self._cache, spec=self.spec)
        _check_grid(sample, _grid(clip, self.spec))
        order = [times.index(seconds) for frame in sample.frames for seconds in _shown(frame, self.spec)]
        return frames_to_patches(clip.frames[order], config=sample.config, spec=self.spec)[0]


class FrozenFeatures:
    """Visual tokens of a tower that does not change, each distinct frame encoded once.

    Args:
        encoder: an engine's model, or `Tower`.
        spec: of the checkpoint's patches.
        clip_cache: of decoded clips.
        feature_cache: that of an engine with the same weights, which may know frames already.
        file: a folder that keeps features on the disk, [rows, width] in the tower's dtype, read through a memory map.
            None keeps them in memory.
        version: of the tower's weights; features of another version in `file` are dropped.
    """

    rows_per_token = 1

    def __init__(
        self,
        encoder: ImageEncoder,
        spec: PatchSpec,
        *,
        clip_cache: ClipCache | None = None,
        feature_cache: FeatureCache | None = None,
        file: Path | None = None,
        version: str = "",
    ) -> None:
        self.spec = spec
        self._encoder = encoder
        self._cache = clip_cache or ClipCache()
        self._features = FeatureCache(0) if feature_cache is None else feature_cache
        self._buffer = PatchBuffer()
        self._held = MemoryRows() if file is None else FileRows(file, dtype=encoder.dtype, version=version)
        self._of_sample: WeakKeyDictionary[Sample, torch.Tensor] = WeakKeyDictionary()
        self.num_encoded = 0

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Encode what is not held yet. The last digits of a feature depend on what else was encoded with it: prepared
        all at once they are the same in every run, however often it was stopped."""
        self._encode(samples)

    def find(self, samples: Sequence[Sample]) -> Callable[[], torch.Tensor]:
        self._encode([sample for sample in samples if sample not in self._of_sample])
        return partial(self._held.take, torch.cat([self._of_sample[sample] for sample in samples]))

    def _encode(self, samples: Sequence[Sample]) -> None:
        """Encode frames that are not held yet, video by video, and note where the samples' features are."""
        wanted: defaultdict[tuple[str, Hashable], dict[FrameRef, Sample]] = defaultdict(dict)
        for sample in samples:
            for frame in sample.frames:
                if _key(frame, sample) not in self._held:
                    wanted[frame.path, _look(sample)][frame] = sample
        for frames in wanted.values():
            self._encode_video(frames)
        for sample in samples:
            spans = [self._held.span(_key(frame, sample)) for frame in sample.frames]
            rows = [np.arange(start, start + count) for start, count in spans]
            self._of_sample[sample] = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *rows]))

    def _encode_video(self, frames: dict[FrameRef, Sample]) -> None:
        sample = next(iter(frames.values()))
        wanted = sorted(frames, key=lambda frame: frame.pts_seconds)
        times = sorted({seconds for frame in wanted for seconds in frame.pts_seconds})
        clip = read_frames(sample, times, cache=self._cache, spec=self.spec)
        grid_hw = _grid(clip, self.spec)
        for other in frames.values():
            _check_grid(other, grid_hw)
        shown = [times.index(seconds) for frame in wanted for seconds in _shown(frame, self.spec)]
        clips = [(_select(clip, shown), sample.config)]
        features, _ = encode_clips(clips, self._encoder, spec=self.spec, cache=self._features, buffer=self._buffer)
        count = grid_hw[0] * grid_hw[1] // self.spec.merge_size**2
        self.num_encoded += len(wanted)
        for frame, made in zip(wanted, features[0].split([count] * len(wanted)), strict=True):
            self._held.add(_key(frame, sample), made.embeds)


def _select(clip: Clip, order: Sequence[int]) -> Clip:
    """Frames of a clip, in any order and as often as they are named."""
    return Clip(
        clip.frames[list(order)],
        tuple(clip.pts_seconds[i] for i in order),
        tuple(clip.frame_indices[i] for i in order),
        tuple(clip.clamped[i] for i in order),
    )


def _look(sample: Sample) -> tuple[Any, ...]:
    """What of a config changes the pixels of a frame, in JSON's types."""
    config, pixels = sample.config, sample.config.protocol.pixels
    box = (*(pixels.box or (0,)), *(pixels.long_box or ()))
    return config.protocol.frame.encoding, pixels.resize, *box, config.min_pixels, config.max_pixels


def _key(frame: FrameRef, sample: Sample) -> tuple[Any, ...]:
    return (sample.video.sha256 or frame.path, *frame.pts_seconds, *_look(sample))


class Tower:
    """The engine's vision tower over the weights of a transformers model that belongs to a trainer."""

    temporal_copies = 1

    def __init__(self, hf: Any) -> None:
        family = next((f for f in FAMILIES if hf.config.model_type in f.model_types), None)
        if family is None:
            raise ValueError(f"vzoom has no vision tower for a {hf.config.model_type!r} model")
        weight = next(hf.model.visual.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.merge: int = hf.config.vision_config.spatial_merge_size
        self._tower = family.tower_class(hf.model.visual, device=self.device, dtype=self.dtype)

    @torch.inference_mode()
    def encode_images(self, patches: torch.Tensor, grid_hw: Sequence[tuple[int, int]]) -> Features:
        return self._tower.encode(patches.to(self.device, self.dtype), tuple(grid_hw))


def version_of(visual: torch.nn.Module) -> str:
    """A digest of a tower's weights: features on a disk belong to one."""
    digest = hashlib.sha256()
    for name, weight in sorted(visual.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
