"""frames_to_patches against transformers' own processor, one thread, 640 x 360 frames at the Qwen budget.

    pytest bench/bench_patches.py --benchmark-only

extra_info as in bench_kernels.py; ratio_to_reference is transformers' PIL pipeline over ours, and target_to_reference
what it should reach. The patches go to memory that is used again, as in the engine; the ratio for a caller who lets
every call allocate stands beside it. ratio_to_floor: the time of reading a frame and writing its patches at memcpy's
speed, over ours.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessor

from vzoom.config import ZoomConfig
from vzoom.kernels.floors import LARGE_BYTES, copy_large, in_turns
from vzoom.protocol import builtin_protocol
from vzoom.video.patches import PatchBuffer, PatchSpec, frames_to_patches, grid_for

try:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil as Processor
except ModuleNotFoundError:  # transformers 5.0: the plain processor is PIL's
    Processor = Qwen2VLImageProcessor


@pytest.mark.parametrize("size", [(360, 640), (1080, 1920)], ids=["360p", "1080p"])
@pytest.mark.parametrize("resize", ["direct", "videozoomer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_frames_to_patches(benchmark: Any, dtype: torch.dtype, resize: Any, size: tuple[int, int]) -> None:
    torch.set_num_threads(1)
    protocol = builtin_protocol("vzoom").override(name=resize, pixels={"resize": resize})
    config, spec, num = ZoomConfig(protocol=protocol), PatchSpec(), 8
    frames = np.random.default_rng(0).integers(0, 256, (num, *size, 3), dtype=np.uint8)
    processor = Processor(size={"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels})
    scale = math.sqrt(config.max_pixels / (size[0] * size[1]))

    def theirs() -> torch.Tensor:
        images = [Image.fromarray(frame) for frame in frames]
        if resize == "videozoomer":
            shape = int(size[1] * scale), int(size[0] * scale)
            images = [image.resize(shape, Image.Resampling.LANCZOS) for image in images]
        return processor(images=images, return_tensors="pt")["pixel_values"]

    grid = grid_for(*size, config=config, spec=spec)
    buffer = PatchBuffer()

    def fresh() -> torch.Tensor:
        return frames_to_patches(frames, config=config, spec=spec, dtype=dtype, impl="cpu")[0]

    def ours() -> torch.Tensor:
        out = buffer.take(num * grid[0] * grid[1], spec, dtype=dtype, device=torch.device("cpu"))
        return frames_to_patches(frames, config=config, spec=spec, dtype=dtype, out=out, impl="cpu")[0]

    patches = ours()
    assert patches.equal(theirs().to(dtype))
    moved = frames.nbytes + patches.nbytes
    taken = in_turns({"ours": ours, "fresh": fresh, "theirs": theirs, "copy": copy_large}, rounds=7)
    info = {
        "op": "frames_to_patches",
        "impl": "cpu",
        "dtype": str(dtype).removeprefix("torch."),
        "shape": f"{size[1]} x {size[0]}, {resize}",
        "ratio_to_floor": round(taken["copy"] * moved / (2 * LARGE_BYTES) / taken["ours"], 3),
        "ratio_to_reference": round(taken["theirs"] / taken["ours"], 2),
        "target_to_reference": 8,
        "ratio_to_reference_in_fresh_memory": round(taken["theirs"] / taken["fresh"], 2),
        "cpu_ms": round(taken["ours"] / num * 1e3, 3),
    }
    benchmark.extra_info.update(info)
    print(f"\n{info}")
    benchmark.pedantic(ours, rounds=5)
