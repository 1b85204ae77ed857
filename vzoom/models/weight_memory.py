"""Where weights are in memory: on the CPU in one region of huge pages, each on a cache line of its own.

A decode step reads every weight once. As safetensors maps them (4 KiB pages of a file, at any multiple of 8 bytes) a
core reads them at 19 to 21 GB/s, placed so at 29 (measured, Zen 4).
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..kernels.huge_pages import huge_region

_LINE = 64  # bytes


def _rounded_up(num_bytes: int) -> int:
    return -(-num_bytes // _LINE) * _LINE


class _MappedFiles:
    """Checkpoints mapped into this process. What was copied of them need not stay in memory beside the copy."""

    def __init__(self) -> None:
        maps = Path("/proc/self/maps")
        lines = maps.read_text().splitlines() if maps.exists() else []  # Linux
        self._spans = [
            tuple(int(end, 16) for end in line.split()[0].split("-")) for line in lines if line.endswith(".safetensors")
        ]

    def forget(self, tensor: Tensor) -> None:
        """Give back the memory of the tensor's whole pages if a file holds the same; it can still be read."""
        page = mmap.PAGESIZE
        begin = -(-tensor.data_ptr() // page) * page
        end = (tensor.data_ptr() + tensor.nbytes) // page * page
        if begin < end and any(low <= begin and end <= high for low, high in self._spans):
            libc = ctypes.CDLL(None)
            libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


class WeightMemory:
    """Memory for all parameters of `model`. On another device than the CPU parameters stay where they are."""

    def __init__(self, model: nn.Module) -> None:
        self._used = 0
        self._placed: set[int] = set()
        self._region: np.ndarray | None = None
        self._files = _MappedFiles()
        if any(p.device.type != "cpu" for p in model.parameters()):
            return
        self._region = huge_region(sum(_rounded_up(p.nbytes) for p in model.parameters()))

    def fuse(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The parameters below each other in one tensor; they become views of it, so that transformers' model still
        works, can be trained and saved."""
        whole = self._new([sum(len(p) for p in parameters), *parameters[0].shape[1:]], parameters[0])
        for parameter, rows in zip(parameters, whole.split([len(p) for p in parameters]), strict=True):
            self._move(parameter, rows)
        return whole

    def place_rest(self, model: nn.Module) -> None:
        """Move every parameter here that is not here yet."""
        for parameter in model.parameters():
            if self._region is not None and id(parameter) not in self._placed:
                self._move(parameter, self._new(parameter.shape, parameter))

    def _move(self, parameter: nn.Parameter, to: Tensor) -> None:
        to.copy_(parameter.detach())
        if self._region is not None:
            self._files.forget(parameter)
        parameter.data = to
        self._placed.add(id(parameter))

    def _new(self, shape: Sequence[int], like: Tensor) -> Tensor:
        if self._region is None:
            return torch.empty(shape, dtype=like.dtype, device=like.device)
        end = self._used + int(np.prod(shape, dtype=np.int64)) * like.element_size()
        # An array of its own for each tensor, which then has a storage of its own: a saved model holds no more than it.
        memory = torch.from_numpy(self._region[self._used : end]).view(like.dtype).view(list(shape))
        self._used = _rounded_up(end)
        return memory
