"""copy_blocks: copies of whole blocks, K and V, all layers, in one launch.

    pages[layer, targets[c]] <- pages[layer, sources[c]]        for K and V

Bytes that must move: each block of each layer read once and written once, K and V.
Letters: see `vzoom.kernels.layout`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_dtype, check_last_dim_contiguous, check_shapes
from ..declare import declare
from ..layout import layered_page_dims
from .reference import Arguments
from .reference import copy_blocks as _reference


def copy_blocks(k_pages: Tensor, v_pages: Tensor, sources_C: Tensor, targets_C: Tensor, *, impl: str = "auto") -> None:
    """Copy blocks of the stacked pages.

    Args:
        k_pages: keys of all layers, [L, *pages of a layer], written.
        v_pages: values of all layers, written.
        sources_C: int64, block numbers.
        targets_C: int64, block numbers. They are all different and none is a source: copies run in any order. A pair
            with a number below 0 is skipped (padding of a captured graph).
        impl: "auto", "reference", "cpu", "triton" or "cuda".

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: the named `impl` is not there.
    """
    _op(k_pages, v_pages, sources_C, targets_C, impl)


def _check(a: Arguments) -> None:
    check_shapes(a)
    layered_page_dims(a.k_pages, a.v_pages)
    check_last_dim_contiguous(k_pages=a.k_pages, v_pages=a.v_pages)
    check_dtype(torch.int64, sources=a.sources_C, targets=a.targets_C)


_op = declare(Arguments, _reference, _check, writes=("k_pages", "v_pages"))
