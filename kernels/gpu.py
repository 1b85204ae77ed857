"""What the GPU implementations share: the dtypes they take, the device they launch on, sizes of tiles."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_gpu_dtype(name: str, tensor: Tensor) -> None:
    """ValueError where a GPU kernel has no instance for the dtype."""
    if tensor.dtype not in GPU_DTYPES:
        raise ValueError(
            f"{name} is {tensor.dtype}: GPU kernels take float32, bfloat16 and float16; impl='reference' takes more"
        )


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, whatever the tensors' is."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()


@cache
def num_multiprocessors(device: torch.device) -> int:
    """SMs of a GPU. 1 on the CPU, where only the interpreter runs."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def architecture_of(device: torch.device) -> int:
    """80 for sm_80 and so on. The interpreter on the CPU takes the tiles of an H100."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def warps_for(elements: int, element_bytes: int) -> int:
    """Warps of a program that moves a tile of `elements`: so few that each thread moves 16 bytes at once; at most 4."""
    return max(1, min(4, elements * element_bytes // (32 * 16)))


def power_of_2(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << max(0, n - 1).bit_length()


def choose_splits(*, programs: int, longest: int, keys_a_step: int, multiprocessors: int) -> int:
    """Into how many pieces the context is cut so that a small batch fills the GPU: a power of two, at most 32.

    programs: what runs without a split; longest: keys that the block table can hold. Two programs a multiprocessor hide
    each other's waiting; a piece of less than four steps costs more to merge than it saves.
    """
    wanted = 2 * multiprocessors // max(1, programs)
    useful = longest // (4 * keys_a_step)
    splits = 1
    while splits * 2 <= min(wanted, useful, 32):
        splits *= 2
    return splits
