"""The integer weights of a resize as tensors on a device, made once per size, filter and device.

The first call for a size copies them to the GPU (and waits): do it before capturing a CUDA graph.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .weights import PRECISION_BITS, Filter, make_pass


class DevicePass(NamedTuple):
    """One pass over one axis: first [out] int32, weights [out, taps] int32, both contiguous.

    in_size and host_first: what a launch must know without reading from the device.
    """

    first: Tensor
    weights: Tensor
    in_size: int
    host_first: np.ndarray

    @property
    def taps(self) -> int:
        """Source pixels that an output pixel sums."""
        return int(self.weights.shape[1])

    def span(self, tile: int) -> int:
        """Count the most source pixels under `tile` neighbouring output pixels that start at a multiple of `tile`."""
        first = self.host_first
        ends = (min(at + tile, len(first)) - 1 for at in range(0, len(first), tile))
        spans = (min(first[end] + self.taps, self.in_size) - first[end // tile * tile] for end in ends)
        return int(max(spans))


@lru_cache(maxsize=256)
def device_pass(in_size: int, out_size: int, filter_name: Filter, device: torch.device) -> DevicePass:
    """Make, or find again, the pass from one size to another.

    Args:
        in_size: pixels.
        out_size: pixels. If the size stays, the pass has one tap of weight 1, which is exact.
        filter_name: "bicubic" or "lanczos".
        device: where the weights will be.

    Returns:
        The pass.
    """
    if in_size == out_size:
        first = np.arange(out_size, dtype=np.int32)
        weights = np.full((out_size, 1), 1 << PRECISION_BITS, np.int32)
    else:
        made = make_pass(in_size, out_size, filter_name)
        first, weights = made.first, made.weights
    first_there, weights_there = (torch.from_numpy(array.copy()).to(device) for array in (first, weights))
    return DevicePass(first_there, weights_there, in_size, first)


def dense_frames(frames_NHWC: Tensor) -> Tensor:
    """Put pixels and channels of a row of frames [N, H, W, 3] next to each other; a copy only if they are not."""
    if frames_NHWC.stride(3) == 1 and frames_NHWC.stride(2) == 3:
        return frames_NHWC
    return frames_NHWC.contiguous()
