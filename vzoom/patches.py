"""Video frames -> pixel values and grids for a Qwen vision tower, without torchvision.

Equal, bit for bit, to what transformers' PIL image processor computes from the same frames. Two ways to a size
(`ZoomConfig.resize`): "direct" resizes as the processor does; "videozoomer" first shrinks a frame that is too large
with Lanczos, as the public code of arXiv 2512.22315 does, and then resizes as the processor does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .config import ZoomConfig
from .kernels.frames_to_patches import Step, pillow_step
from .kernels.frames_to_patches import frames_to_patches as _frames_to_patches
from .kernels.frames_to_patches import resize_frames as _resize_frames

_MAX_ASPECT = 200  # transformers refuses longer images


@dataclass(frozen=True)
class PatchSpec:
    """What a checkpoint's vision tower wants: `patch_size` pixels a side, merged `merge_size` a side.

    The defaults are those of Qwen2-VL and Qwen2.5-VL.
    """

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    rescale: float = 1 / 255

    @property
    def factor(self) -> int:
        """Pixels a side of one merged patch: heights and widths are multiples of it."""
        return self.patch_size * self.merge_size

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str) -> PatchSpec:
        """Read the contents of a preprocessor_config.json; `source` is named in errors.

        ValueError where a field is missing or the image processor is of another kind.
        """
        if not str(data.get("image_processor_type", "Qwen2VL")).startswith("Qwen2VL"):
            raise ValueError(
                f"{source}: image processor {data['image_processor_type']!r} is not of the Qwen2-VL family"
            )
        missing = [key for key in ("patch_size", "image_mean", "image_std") if key not in data]
        if missing:
            raise ValueError(
                f"{source}: {', '.join(missing)} missing; is it the preprocessor_config.json of a Qwen-VL?"
            )
        switched_off = [key for key in ("do_resize", "do_rescale", "do_normalize") if data.get(key) is False]
        if switched_off:
            raise ValueError(f"{source}: {', '.join(switched_off)} = false is not supported")
        return cls(
            patch_size=int(data["patch_size"]),
            merge_size=int(data.get("merge_size", 2)),
            temporal_patch_size=int(data.get("temporal_patch_size", 2)),
            mean=_three(data["image_mean"], source),
            std=_three(data["image_std"], source),
            rescale=float(data.get("rescale_factor", 1 / 255)),
        )


def _three(values: Any, source: str) -> tuple[float, float, float]:
    if not isinstance(values, list) or len(values) != 3:
        raise ValueError(f"{source}: mean and std must hold 3 numbers, got {values!r}")
    return (float(values[0]), float(values[1]), float(values[2]))


def smart_resize(height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The processor's target size: multiples of `factor`, area between the limits, aspect nearly kept.

    ValueError where one side is more than 200 times the other.
    """
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise ValueError(f"a frame of {height} x {width} pixels is longer than {_MAX_ASPECT} : 1")
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if h * w > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        h = max(factor, math.floor(height / shrink / factor) * factor)
        w = max(factor, math.floor(width / shrink / factor) * factor)
    elif h * w < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        h, w = math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return h, w


def _sizes(
    height: int, width: int, config: ZoomConfig, spec: PatchSpec
) -> tuple[tuple[int, int] | None, tuple[int, int]]:
    """The size that Lanczos shrinks to, where it does, and the final size."""
    shrunk = None
    if config.resize == "videozoomer" and height * width > config.max_pixels:
        scale = math.sqrt(config.max_pixels / (height * width))
        shrunk = (max(1, int(height * scale)), max(1, int(width * scale)))
    limits = {"factor": spec.factor, "min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
    return shrunk, smart_resize(*(shrunk or (height, width)), **limits)


def _steps(height: int, width: int, config: ZoomConfig, spec: PatchSpec) -> tuple[tuple[Step, ...], tuple[int, int]]:
    """The resizes that take a frame to the model's size, and that size."""
    shrunk, final = _sizes(height, width, config, spec)
    steps: list[Step] = []
    size = (height, width)
    if shrunk is not None:
        steps.append(pillow_step(size, shrunk, "lanczos"))
        size = shrunk
    if size != final:
        steps.append(pillow_step(size, final, "bicubic"))
    return tuple(steps), final


def grid_for(height: int, width: int, *, config: ZoomConfig, spec: PatchSpec) -> tuple[int, int]:
    """(rows, columns) of patches for a frame of `height` x `width` pixels: known before anything is decoded."""
    _, (h, w) = _sizes(height, width, config, spec)
    return h // spec.patch_size, w // spec.patch_size


def frames_to_patches(
    frames_NHWC: np.ndarray | Tensor,
    *,
    config: ZoomConfig,
    spec: PatchSpec,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    out: Tensor | None = None,
    impl: str = "auto",
) -> tuple[Tensor, tuple[int, int]]:
    """Frames of one size, uint8 [N, H, W, 3] RGB -> (patches [N * h * w, 3 * temporal * patch**2], grid (h, w)).

    Every frame is an image of its own: it is repeated along the temporal patch. The grid is in patches before merging.
    out: where the patches go, in `dtype` on `device`; see `PatchBuffer`.
    ValueError where the frames are no such array or too long for a patch grid, or `out` has another shape.
    """
    frames = _as_tensor(frames_NHWC).to(device)
    _, height, width, _ = frames.shape
    steps, final = _steps(height, width, config, spec)
    patches = _frames_to_patches(
        frames,
        value_table(spec, dtype).to(device),
        steps=steps,
        patch=spec.patch_size,
        merge=spec.merge_size,
        temporal=spec.temporal_patch_size,
        out=out,
        impl=impl,
    )
    return patches, (final[0] // spec.patch_size, final[1] // spec.patch_size)


class PatchBuffer:
    """Memory for patches that is used again by the next call. Fresh memory costs the system more time, page by page,
    than the resize that fills it. Used by one thread at a time."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def take(self, num_patches: int, spec: PatchSpec, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """[num_patches, 3 * temporal * patch**2], holding whatever it holds; valid until the next `take`."""
        values = 3 * spec.temporal_patch_size * spec.patch_size**2
        kept = self._memory
        if kept.numel() < num_patches * values or (kept.dtype, kept.device) != (dtype, device):
            self._memory = torch.empty(num_patches * values, dtype=dtype, device=device)
        return self._memory[: num_patches * values].view(num_patches, values)


def resize_frames(frames_NHWC: np.ndarray, *, config: ZoomConfig, spec: PatchSpec, impl: str = "auto") -> np.ndarray:
    """Frames of one size at the model's size: uint8 [N, H, W, 3] -> uint8 [N, h, w, 3].

    `frames_to_patches` of the result is that of the frames: what a cache of frames may keep instead of them.
    """
    _check_frames(frames_NHWC.dtype == np.uint8, frames_NHWC)
    _, height, width, _ = frames_NHWC.shape
    steps, _ = _steps(height, width, config, spec)
    return _resize_frames(frames_NHWC, steps, impl=impl)


def _check_frames(is_uint8: bool, frames: np.ndarray | Tensor) -> None:
    if not is_uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise ValueError(f"frames must be uint8 [N, H, W, 3], got {frames.dtype} {tuple(frames.shape)}")
    if 0 in frames.shape[1:3]:
        raise ValueError(f"frames have no pixels: {tuple(frames.shape)}")


def _as_tensor(frames: np.ndarray | Tensor) -> Tensor:
    if isinstance(frames, np.ndarray):
        _check_frames(frames.dtype == np.uint8, frames)
        frames = np.ascontiguousarray(frames)
        frames = torch.from_numpy(frames if frames.flags.writeable else frames.copy())
    _check_frames(frames.dtype == torch.uint8, frames)
    return frames.contiguous()


@lru_cache(maxsize=16)
def value_table(spec: PatchSpec, dtype: torch.dtype) -> Tensor:
    """[3, 256]: what the processor's rescale and normalise make of each level of each channel.

    Computed as transformers does: rescaled in float64, rounded to float32, normalised in float32.
    """
    levels = (np.arange(256, dtype=np.float64) * spec.rescale).astype(np.float32)
    mean, std = np.array(spec.mean, np.float32)[:, None], np.array(spec.std, np.float32)[:, None]
    return torch.from_numpy((levels[None] - mean) / std).to(dtype)
