"""copy_blocks: copies of whole blocks, K and V, all layers, in one launch.

    pages[layer, targets[n]] <- pages[layer, sources[n]]        for K and V

Bytes that must move: each block of each layer read once and written once, K and V.
Shapes: L layers, N copies; pages [L, *pages of a layer], see `vzoom.kernels.layout`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vzoom import ext

from ..checks import check_dims, check_last_dim_contiguous, check_same_device
from ..layout import check_layered_pages
from ..library import LIB
from ..registry import resolve
from .reference import copy_blocks as _reference

LIB.define("copy_blocks(Tensor(a!) k_pages, Tensor(b!) v_pages, Tensor sources, Tensor targets, str impl) -> ()")


def copy_blocks(k_pages: Tensor, v_pages: Tensor, sources_N: Tensor, targets_N: Tensor, *, impl: str = "auto") -> None:
    """Copy blocks of the stacked pages. Mutates k_pages and v_pages.

    sources, targets [N] int64 block numbers. The targets are all different and none is a source: copies run in any
    order. A pair with a number below 0 is skipped (padding of a captured graph).
    ValueError where shapes, dtypes or devices do not fit; RuntimeError where a named `impl` is not there.
    """
    torch.ops.vzoom.copy_blocks(k_pages, v_pages, sources_N, targets_N, impl)


def check(k_pages: Tensor, v_pages: Tensor, sources: Tensor, targets: Tensor) -> None:
    """ValueError where the arguments do not fit together."""
    check_same_device(k_pages=k_pages, v_pages=v_pages, sources=sources, targets=targets)
    check_layered_pages(k_pages, v_pages)
    check_dims(sources=(sources, "N"), targets=(targets, "N"))
    check_last_dim_contiguous(k_pages=k_pages, v_pages=v_pages)
    for name, tensor in (("sources", sources), ("targets", targets)):
        if tensor.dtype != torch.int64:
            raise ValueError(f"{name} must be int64, got {tensor.dtype}")


def _run(k_pages: Tensor, v_pages: Tensor, sources: Tensor, targets: Tensor, impl: str) -> None:
    chosen = resolve("copy_blocks", impl, k_pages.device.type)
    if chosen == "cpu":  # which checks its arguments itself
        ext.loaded().copy_blocks(k_pages, v_pages, sources, targets)
        return
    check(k_pages, v_pages, sources, targets)
    if chosen == "cuda":
        run = ext.loaded().cuda_copy_blocks
    elif chosen == "triton":
        from .triton_impl import copy_blocks as run
    else:
        run = _reference
    run(k_pages, v_pages, sources, targets)


def _fake(k_pages: Tensor, v_pages: Tensor, sources: Tensor, targets: Tensor, impl: str) -> None:
    check(k_pages, v_pages, sources, targets)


LIB.impl("copy_blocks", _run, "CPU")
LIB.impl("copy_blocks", _run, "CUDA")
torch.library.register_fake("vzoom::copy_blocks", _fake, lib=LIB)
