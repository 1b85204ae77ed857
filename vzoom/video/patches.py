"""Video frames -> pixel values and grids for a Qwen vision tower, without torchvision.

Equal, bit for bit, to what transformers' PIL image processor computes from the same frames. Two ways to a size
(`Pixels.resize` of the protocol): "direct" resizes as the processor does; "videozoomer" first shrinks a frame that
is too large with Lanczos, as the public code of arXiv 2512.22315 does, and then resizes as the processor does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..config import ZoomConfig
from ..kernels.frames_to_patches import Step, pillow_step, resize_on_device
from ..kernels.frames_to_patches import frames_to_patches as _frames_to_patches
from ..kernels.frames_to_patches import resize_frames as _resize_frames

Frames = TypeVar("Frames", np.ndarray, Tensor)

_MAX_ASPECT = 200  # transformers refuses longer images


@dataclass(frozen=True)
class PatchSpec:
    """The patch geometry of a checkpoint's vision tower. The defaults are those of Qwen2-VL and Qwen2.5-VL.

    Attributes:
        patch_size: pixels per side of a patch.
        merge_size: patches per side of a visual token.
        temporal_patch_size: frames per patch; an image is repeated that often.
        mean: subtracted from each rescaled channel (R, G, B).
        std: each channel is divided by it after that.
        rescale: what a level from 0 to 255 is multiplied by before that.
    """

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    rescale: float = 1 / 255

    @property
    def factor(self) -> int:
        """Pixels per side of one merged patch: heights and widths are multiples of it."""
        return self.patch_size * self.merge_size

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str) -> PatchSpec:
        """Read the contents of a preprocessor_config.json.

        Args:
            data: the file's contents.
            source: what the file belongs to, for errors.

        Raises:
            ValueError: a field is missing, or the image processor is of another kind.
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
    """The size that transformers' image processor resizes to (`smart_resize` of Qwen2-VL).

    Args:
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        factor: both results are multiples of it.
        min_pixels: the least area of the result.
        max_pixels: the largest area of the result.

    Returns:
        (height, width) in pixels, the aspect nearly kept.

    Raises:
        ValueError: one side is more than 200 times the other.
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
    """The size that Lanczos shrinks to (None if it does not), and the final size."""
    shrunk = None
    if config.protocol.pixels.resize == "videozoomer" and height * width > config.max_pixels:
        scale = math.sqrt(config.max_pixels / (height * width))
        shrunk = (max(1, int(height * scale)), max(1, int(width * scale)))
    limits = {"factor": spec.factor, "min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
    return shrunk, smart_resize(*(shrunk or (height, width)), **limits)


def _steps(height: int, width: int, config: ZoomConfig, spec: PatchSpec) -> tuple[tuple[Step, ...], tuple[int, int]]:
    """The resizes that bring a frame to the model's size, and that size."""
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
    """The grid of patches of a frame: known before anything is decoded.

    Args:
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        config: its resize rule and pixel limits decide.
        spec: the patch geometry of the model.

    Returns:
        (rows, columns) in patches, before merging.

    Raises:
        ValueError: one side is more than 200 times the other.
    """
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
    """Resize frames and cut them into normalised patches. Every frame is an image of its own.

    Args:
        frames_NHWC: frames of one size, uint8 [N, H, W, 3] RGB.
        config: its resize rule and pixel limits decide the size.
        spec: the patch geometry of the model.
        dtype: of the patches.
        device: where the patches go.
        out: memory for them, in `dtype` on `device`; see `PatchBuffer`. None takes new memory.
        impl: "auto", or an implementation by name.

    Returns:
        Patches [N * h * w, 3 * temporal_patch_size * patch_size**2] in merge order, and the grid (h, w) of one frame
        in patches, before merging.

    Raises:
        ValueError: the frames are no such array or too long for a grid of patches, or `out` has another shape.
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
    """Memory for patches that the next call uses again. Used by one thread at a time.

    Fresh memory costs the system more time, page by page, than the resize that fills it.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def take(self, num_patches: int, spec: PatchSpec, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory [num_patches, 3 * temporal_patch_size * patch_size**2], not initialised; valid until the next call."""
        values = 3 * spec.temporal_patch_size * spec.patch_size**2
        kept = self._memory
        if kept.numel() < num_patches * values or (kept.dtype, kept.device) != (dtype, device):
            self._memory = torch.empty(num_patches * values, dtype=dtype, device=device)
        return self._memory[: num_patches * values].view(num_patches, values)


def resize_frames(frames_NHWC: Frames, *, config: ZoomConfig, spec: PatchSpec, impl: str = "auto") -> Frames:
    """Frames at the model's size: what a cache may keep instead of the frames.

    `frames_to_patches` of the result equals that of the frames.

    Args:
        frames_NHWC: frames of one size, uint8 [N, H, W, 3], an array or a tensor.
        config: its resize rule and pixel limits decide the size.
        spec: the patch geometry of the model.
        impl: "auto", or an implementation by name, for an array; a tensor is resized where it is.

    Returns:
        uint8 [N, h, w, 3], of the kind that was given.

    Raises:
        ValueError: the frames are no such array.
    """
    _check_frames(str(frames_NHWC.dtype) in ("uint8", "torch.uint8"), frames_NHWC)
    _, height, width, _ = frames_NHWC.shape
    steps, _ = _steps(height, width, config, spec)
    if isinstance(frames_NHWC, np.ndarray):
        return _resize_frames(frames_NHWC, steps, impl=impl)
    return resize_on_device(frames_NHWC, steps)


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
    """What the processor's rescaling and normalising make of each level of each channel: [3, 256].

    Computed as transformers does: rescaled in float64, rounded to float32, normalised in float32.
    """
    levels = (np.arange(256, dtype=np.float64) * spec.rescale).astype(np.float32)
    mean, std = np.array(spec.mean, np.float32)[:, None], np.array(spec.std, np.float32)[:, None]
    return torch.from_numpy((levels[None] - mean) / std).to(dtype)
