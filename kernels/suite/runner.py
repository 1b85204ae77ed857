"""What a check runs: one implementation of the ops, and where its tensors are.

Checks make CPU tensors, with pages as [.., N, G, P, D] views of the GPU's memory order, and hand them to a runner. It
moves them to its device, in the order of dimensions that its ops expect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..gpu import GPU_DTYPES
from .cases import placed

DTYPES = FLOAT, BF16, HALF = GPU_DTYPES
HEAD_DIMS = (64, 80, 96, 128, 256, 16, 8)
_SHORT = {FLOAT: "fp32", BF16: "bf16", HALF: "fp16"}


class Runner(Protocol):
    """Runs ops of one implementation."""

    def put(self, tensor: Tensor) -> Tensor:
        """Copy to the runner's device; strides and alignment stay."""

    def put_pages(self, heads_first: Tensor) -> Tensor:
        """Copy pages [.., G, P, D] to the runner's device, in its order of dimensions."""

    def heads_first(self, pages: Tensor) -> Tensor:
        """Undo put_pages; the result is on the CPU."""

    def run(self, op: str, *arguments: Any) -> None:
        """Run the op. The arguments are those of its `Arguments`, in their order."""


@dataclass(frozen=True)
class Check:
    """One check of one op; `body` raises AssertionError if the runner's numbers are wrong."""

    op: str
    name: str
    dtype: torch.dtype
    body: Callable[[Runner], None]

    def __str__(self) -> str:
        return f"{self.op}-{self.name}-{_SHORT[self.dtype]}"


@dataclass(frozen=True)
class OpRunner:
    """The package's own ops with one `impl` on one device."""

    impl: str
    device: torch.device

    def put(self, tensor: Tensor) -> Tensor:
        """Copy to the runner's device; strides and alignment stay."""
        return placed(tensor, self.device)

    def put_pages(self, heads_first: Tensor) -> Tensor:
        """Copy pages [.., G, P, D] to the runner's device, in its order of dimensions."""
        moved = self.put(heads_first)
        return moved.transpose(-3, -2) if self.device.type == "cuda" else moved

    def heads_first(self, pages: Tensor) -> Tensor:
        """Undo put_pages; the result is on the CPU."""
        return (pages.transpose(-3, -2) if self.device.type == "cuda" else pages).cpu()

    def run(self, op: str, *arguments: Any) -> None:
        """Run `torch.ops.vzoom.<op>`."""
        getattr(torch.ops.vzoom, op).default(*arguments, self.impl)
