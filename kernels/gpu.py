"""What the GPU implementations share: the dtypes they take, the device they launch on, sizes of tiles."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_gpu_dtype(name: str, tensor: Tensor) -> None:
    """Check that GPU kernels have an instance for the dtype.

    Raises:
        ValueError: they have none.
    """
    if tensor.dtype not in GPU_DTYPES:
        raise ValueError(
            f"{name} is {tensor.dtype}: GPU kernels take float32, bfloat16 and float16; impl='reference' takes more"
        )


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the tensor's device current: Triton launches on the current device, whatever the tensors' is."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()


@cache
def num_multiprocessors(device: torch.device) -> int:
    """Count the SMs of a GPU; 1 on the CPU, as only the interpreter runs there."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def architecture_of(device: torch.device) -> int:
    """Give a GPU's architecture, 80 for sm_80. The interpreter on the CPU takes the tiles of an H100."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def warps_for(elements: int, element_bytes: int) -> int:
    """Choose the warps of a program that moves a tile: so few that each thread moves 16 bytes at once, at most 4.

    Args:
        elements: of the tile.
        element_bytes: of one.

    Returns:
        Warps.
    """
    return max(1, min(4, elements * element_bytes // (32 * 16)))


def power_of_2(n: int) -> int:
    """Give the smallest power of two that is not below n."""
    return 1 << max(0, n - 1).bit_length()


def choose_splits(*, programs: int, longest: int, keys_per_step: int, multiprocessors: int) -> int:
    """Choose into how many pieces a context is cut, so that a small batch fills the GPU.

    Two programs per multiprocessor hide each other's waiting; a piece of less than four steps costs more to merge than
    it saves.

    Args:
        programs: what runs without a split.
        longest: keys that the block table can hold.
        keys_per_step: keys that a program reads at once.
        multiprocessors: of the GPU.

    Returns:
        A power of two, at most 32.
    """
    wanted = 2 * multiprocessors // max(1, programs)
    useful = longest // (4 * keys_per_step)
    splits = 1
    while splits * 2 <= min(wanted, useful, 32):
        splits *= 2
    return splits
