"""The compiled extension, which is the top-level module `_vzoom`; code reaches it as `kernels.extension.module`.

Each function is an op, with the arguments of `kernels/<op>/reference.py` in their order; `kernels/<op>/op.py` says what
they are. `tests/kernels/test_extension.py` compares names and arguments with the extension itself.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

__version__: str
cpu_ops: tuple[str, ...]  # ops with C++
cuda_ops: tuple[str, ...]  # ops with CUDA C++; empty if the extension was built without nvcc

class BadArgument(ValueError): ...

def isa() -> str: ...
def set_isa(name: str) -> None: ...

# ---------------------------------------------------------------- C++, on CPU tensors

def copy_blocks(k_pages: Tensor, v_pages: Tensor, sources: Tensor, targets: Tensor) -> None: ...
def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    gate_bias: Tensor | None,
    add: Tensor | None,
    out: Tensor,
) -> None: ...
def merge_states(
    out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor, out: Tensor, lse: Tensor | None
) -> None: ...
def mrope_append(
    q: Tensor | None,
    k: Tensor,
    v: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    k_pages: Tensor,
    v_pages: Tensor,
    slots: Tensor,
) -> None: ...
def paged_attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    block_table: Tensor,
    kv_lens: Tensor,
    cu_seqlens_q: Tensor,
    out: Tensor,
    lse: Tensor | None,
    scale: float,
    causal: bool,
) -> None: ...
def rms_norm(x: Tensor, weight: Tensor, epsilon: float, out: Tensor) -> None: ...
def silu_mul(gate: Tensor, up: Tensor) -> None: ...
def splice_move(
    k_pages: Tensor, v_pages: Tensor, sources: Tensor, targets: Tensor, cos: Tensor | None, sin: Tensor | None
) -> None: ...

class FramePlan:
    def __init__(self, in_height: int, in_width: int, steps: Sequence[tuple[Any, Any, Any, Any, bool]]) -> None: ...

def frames_to_patches(
    plan: FramePlan, frames: Tensor, table: Tensor, out: Tensor, patch: int, merge: int, temporal: int
) -> None: ...
def resize_frames(plan: FramePlan, frames: Any, out: Any) -> None: ...

# ---------------------------------------------------------------- CUDA C++, if the extension was built with it

def cuda_copy_blocks(k_pages: Tensor, v_pages: Tensor, sources: Tensor, targets: Tensor) -> None: ...
def cuda_frames_to_patches(
    frames: Tensor,
    table: Tensor | None,
    out: Tensor,
    x_first: Tensor,
    x_weights: Tensor,
    x_span: int,
    y_first: Tensor,
    y_weights: Tensor,
    y_span: int,
    vertical_first: bool,
    patch: int,
    merge: int,
    temporal: int,
    tile: int,
) -> None: ...
def cuda_merge_states(
    out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor, out: Tensor, lse: Tensor | None
) -> None: ...
def cuda_mrope_append(
    q: Tensor | None,
    k: Tensor,
    v: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    k_pages: Tensor,
    v_pages: Tensor,
    slots: Tensor,
) -> None: ...
def cuda_paged_attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    block_table: Tensor,
    kv_lens: Tensor,
    cu_seqlens_q: Tensor,
    out: Tensor,
    lse: Tensor | None,
    scale: float,
    causal: bool,
    part_out: Tensor | None,
    part_lse: Tensor | None,
) -> None: ...
def cuda_splice_move(
    k_pages: Tensor, v_pages: Tensor, sources: Tensor, targets: Tensor, cos: Tensor | None, sin: Tensor | None
) -> None: ...
