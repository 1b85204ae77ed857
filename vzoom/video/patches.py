"""Video frames -> pixel values and grids for a Qwen vision tower, without torchvision.

Equal, bit for bit, to what transformers computes from the same frames. The protocol says how they are shown: as images
(`frame.encoding`), as its PIL image processor makes them; or as video, as its video processors do, which resize with
torch and put two frames in a patch. Three ways to a size (`pixels.resize`): "direct" resizes as the processor does;
"videozoomer" first shrinks a frame that has too many pixels with Lanczos, as the public code of arXiv 2512.22315 does,
and then resizes as the processor does; "box" likewise shrinks one that is wider or higher than it may be.

The limits of pixels are those of a frame. Qwen3-VL's video processor has limits for a whole video: these times its
frames. (It rounds an odd number of frames to one or the other side before it compares with them; here the size of a
frame does not depend on how many there are.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..config import ZoomConfig
from ..kernels.frames_to_patches import Step, pillow_step, resize_on_device
from ..kernels.frames_to_patches import frames_to_patches as _frames_to_patches
from ..kernels.frames_to_patches import resize_frames as _resize_frames
from ..protocol import Encoding

Frames = TypeVar("Frames", np.ndarray, Tensor)

_MAX_ASPECT = 200  # transformers refuses longer images


@dataclass(frozen=True)
class PatchSpec:
    """The patch geometry of a checkpoint's vision tower. The defaults are those of Qwen2-VL and Qwen2.5-VL.

    Attributes:
        patch_size: pixels per side of a patch.
        merge_size: patches per side of a visual token.
        temporal_patch_size: frames of a video per patch; an image is repeated that often.
        mean: subtracted from each rescaled channel (R, G, B).
        std: each channel is divided by it after that.
        rescale: what a level from 0 to 255 is multiplied by before that.
        enlarges_videos: whether frames of a video are enlarged to the width and height of a merged patch before all
            else, as Qwen3-VL's video processor does it.
    """

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    rescale: float = 1 / 255
    enlarges_videos: bool = False

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
    if config.protocol.frame.encoding == "video" and spec.enlarges_videos and min(height, width) < spec.factor:
        scale = max(spec.factor / height, spec.factor / width)
        height, width = int(height * scale), int(width * scale)
    pixels = config.protocol.pixels
    if pixels.resize == "videozoomer" and height * width > config.max_pixels:
        scale = math.sqrt(config.max_pixels / (height * width))
        shrunk = (max(1, int(height * scale)), max(1, int(width * scale)))
    elif pixels.box is not None:
        shrunk = _fitted(height, width, pixels.box, spec.factor)
    limits = {"factor": spec.factor, "min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
    return shrunk, smart_resize(*(shrunk or (height, width)), **limits)


def _fitted(height: int, width: int, box: tuple[int, int], factor: int) -> tuple[int, int] | None:
    """The largest (height, width) of the same aspect in a box (width, height), rounded down.

    None for a frame that fits in the box as the processor rounds that: so a frame at its final size stays as it is.
    """
    if all(side <= max(1, round(most / factor)) * factor for side, most in zip((width, height), box, strict=True)):
        return None
    most_wide, most_high = box
    if width * most_high > height * most_wide:
        return max(1, int(height * (most_wide / width))), most_wide
    return most_high, max(1, int(width * (most_high / height)))


def _steps(height: int, width: int, config: ZoomConfig, spec: PatchSpec) -> tuple[tuple[Step, ...], tuple[int, int]]:
    """The resizes as Pillow does them that bring a frame to the model's size, and that size. The last one to the size
    of a video is torch's and not among them."""
    shrunk, final = _sizes(height, width, config, spec)
    steps: list[Step] = []
    size = (height, width)
    if shrunk is not None:
        steps.append(pillow_step(size, shrunk, "lanczos"))
        size = shrunk
    if size != final and config.protocol.frame.encoding == "image":
        steps.append(pillow_step(size, final, "bicubic"))
    return tuple(steps), final


def _resized_by_torch(frames_NHWC: Tensor, size: tuple[int, int]) -> Tensor:
    """As torchvision resizes uint8 on the CPU: by this function of torch, whose weights are not Pillow's. Frames on a
    GPU are resized on the CPU, too: there torch rounds in another way."""
    if frames_NHWC.shape[1:3] == size:
        return frames_NHWC
    planes = frames_NHWC.cpu().permute(0, 3, 1, 2)
    resized = interpolate(planes, size, mode="bicubic", antialias=True)
    return resized.permute(0, 2, 3, 1).contiguous().to(frames_NHWC.device)


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
    """Resize frames and cut them into normalised patches.

    Each frame is an image of its own; or, if the protocol shows frames as video, a temporal patch holds two of them,
    and the last frame is repeated until the last patch is full.

    Args:
        frames_NHWC: frames of one size, uint8 [N, H, W, 3] RGB.
        config: its protocol's encoding, resize rule and pixel limits decide.
        spec: the patch geometry of the model.
        dtype: of the patches.
        device: where the patches go.
        out: memory for them, in `dtype` on `device`; see `PatchBuffer`. None takes new memory.
        impl: "auto", or an implementation by name.

    Returns:
        Patches [T * h * w, 3 * temporal_patch_size * patch_size**2] in merge order, T = N for images and
        ceil(N / temporal_patch_size) for a video, and the grid (h, w) of one frame in patches, before merging.

    Raises:
        ValueError: the frames are no such array or too long for a grid of patches, or `out` has another shape.
    """
    frames = _as_tensor(frames_NHWC)
    _, height, width, _ = frames.shape
    steps, final = _steps(height, width, config, spec)
    grid_hw = final[0] // spec.patch_size, final[1] // spec.patch_size
    table = value_table(spec, dtype, config.protocol.frame.encoding).to(device)
    if config.protocol.frame.encoding == "image":
        patches = _frames_to_patches(
            frames.to(device),
            table,
            steps=steps,
            patch=spec.patch_size,
            merge=spec.merge_size,
            temporal=spec.temporal_patch_size,
            out=out,
            impl=impl,
        )
        return patches, grid_hw
    if steps:
        frames = resize_on_device(frames, steps)
    frames = _resized_by_torch(frames, final).to(device)
    together = spec.temporal_patch_size
    frames = torch.cat([frames, frames[-1:].expand(-len(frames) % together, -1, -1, -1)])
    single = _frames_to_patches(
        frames, table, steps=(), patch=spec.patch_size, merge=spec.merge_size, temporal=1, impl=impl
    )
    num_patches, pixels = len(frames) // together, spec.patch_size**2
    by_frame = single.view(num_patches, together, -1, 3, pixels)
    if out is None:
        out = single.new_empty(len(single) // together, 3 * together * pixels)
    out.view(num_patches, -1, 3, together, pixels).copy_(by_frame.permute(0, 2, 3, 1, 4))
    return out, grid_hw


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
    steps, final = _steps(height, width, config, spec)
    if isinstance(frames_NHWC, np.ndarray):
        resized = _resize_frames(frames_NHWC, steps, impl=impl)
        return (
            resized
            if config.protocol.frame.encoding == "image"
            else _resized_by_torch(_as_tensor(resized), final).numpy()
        )
    resized = resize_on_device(frames_NHWC, steps)
    return resized if config.protocol.frame.encoding == "image" else _resized_by_torch(resized, final)


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
def value_table(spec: PatchSpec, dtype: torch.dtype, encoding: Encoding = "image") -> Tensor:
    """What the processor's rescaling and normalising make of each level of each channel: [3, 256].

    Computed as transformers does. Its PIL image processor rescales in float64, rounds to float32 and normalises in
    float32; its video processors do both at once, with mean and deviation of levels from 0 to 255.
    """
    if encoding == "video":
        mean_3, std_3 = (torch.tensor(values) * (1 / spec.rescale) for values in (spec.mean, spec.std))
        return ((torch.arange(256.0) - mean_3[:, None]) / std_3[:, None]).to(dtype)
    levels = (np.arange(256, dtype=np.float64) * spec.rescale).astype(np.float32)
    mean, std = np.array(spec.mean, np.float32)[:, None], np.array(spec.std, np.float32)[:, None]
    return torch.from_numpy((levels[None] - mean) / std).to(dtype)
