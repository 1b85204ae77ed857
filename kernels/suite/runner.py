"""What the checks run: an implementation of the six ops, and where its tensors live.

Checks make CPU tensors, with pages as [.., blocks, kv_heads, block_size, head_dim] views of the GPU's memory order, and
hand them to a runner, which moves them to its device in the order of dimensions that its ops expect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..copy_blocks.op import copy_blocks
from ..frames_to_patches.op import frames_to_patches
from ..merge_states.op import merge_states
from ..mrope_append.op import mrope_append
from ..paged_attention.op import paged_attention
from ..splice_move.op import splice_move
from .cases import placed

OPS: dict[str, Callable[..., Any]] = {
    "mrope_append": mrope_append,
    "paged_attention": paged_attention,
    "frames_to_patches": frames_to_patches,
    "copy_blocks": copy_blocks,
    "splice_move": splice_move,
    "merge_states": merge_states,
}


class Runner(Protocol):
    """Runs ops of one implementation."""

    def put(self, tensor: Tensor) -> Tensor:
        """A copy on the runner's device, strides and alignment kept."""

    def put_pages(self, heads_first: Tensor) -> Tensor:
        """Pages [.., kv_heads, block_size, head_dim] on the runner's device, in its order of dimensions."""

    def heads_first(self, pages: Tensor) -> Tensor:
        """The opposite of put_pages, on the CPU."""

    def run(self, op: str, *args: Any, **kwargs: Any) -> Any:
        """The op, called as in its op.py."""


@dataclass(frozen=True)
class OpRunner:
    """The package's own ops with one `impl` on one device."""

    impl: str
    device: torch.device

    def put(self, tensor: Tensor) -> Tensor:
        return placed(tensor, self.device)

    def put_pages(self, heads_first: Tensor) -> Tensor:
        moved = self.put(heads_first)
        return moved.transpose(-3, -2) if self.device.type == "cuda" else moved

    def heads_first(self, pages: Tensor) -> Tensor:
        return (pages.transpose(-3, -2) if self.device.type == "cuda" else pages).cpu()

    def run(self, op: str, *args: Any, **kwargs: Any) -> Any:
        return OPS[op](*args, **kwargs, impl=self.impl)
