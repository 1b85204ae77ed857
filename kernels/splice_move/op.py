"""splice_move: cached tokens to other slots, their keys rotated to other positions; all layers in one launch.

    k_pages[layer, targets[t]] <- R(delta) k_pages[layer, sources[t]]
    v_pages[layer, targets[t]] <- v_pages[layer, sources[t]]

Moving a clip shifts all three M-RoPE axes by the same delta, so one cosine and sine per frequency serves every token
of it. Without angles (delta = 0) it is compaction, and bitwise. Rotate from the original each time: repeated moves
drift.
Bytes that must move: 4 G D values per token and layer (K and V, read and written).
Letters: see `vzoom.kernels.layout`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_dtype, check_last_dim_contiguous, check_shapes
from ..declare import declare
from ..layout import layered_page_dims
from .reference import Arguments
from .reference import splice_move as _reference


def splice_move(
    k_pages: Tensor,
    v_pages: Tensor,
    sources_T: Tensor,
    targets_T: Tensor,
    cos_R: Tensor | None = None,
    sin_R: Tensor | None = None,
    *,
    impl: str = "auto",
) -> None:
    """Move tokens between slots of the stacked pages.

    Args:
        k_pages: keys of all layers, [L, *pages of a layer], written.
        v_pages: values of all layers, written.
        sources_T: int64, slots.
        targets_T: int64, slots. They are all different and none is the source of another token: moves run in any
            order. A pair with a slot below 0 is skipped.
        cos_R: float32, of delta times each frequency, computed in float64 and rounded once; None moves unrotated. The
            rotation is computed in float32.
        sin_R: as cos_R.
        impl: "auto", "reference", "cpu", "triton" or "cuda".

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: the named `impl` is not there.
    """
    _op(k_pages, v_pages, sources_T, targets_T, cos_R, sin_R, impl)


def _check(a: Arguments) -> None:
    check_shapes(a)
    dims = layered_page_dims(a.k_pages, a.v_pages)
    check_last_dim_contiguous(k_pages=a.k_pages, v_pages=a.v_pages)
    check_dtype(torch.int64, sources=a.sources_T, targets=a.targets_T)
    if (a.cos_R is None) != (a.sin_R is None):
        raise ValueError("cos and sin must both be given or both be None")
    check_dtype(torch.float32, cos=a.cos_R, sin=a.sin_R)
    for name, angles in (("cos", a.cos_R), ("sin", a.sin_R)):
        if angles is not None and (dims.head_dim % 2 or len(angles) != dims.head_dim // 2):
            raise ValueError(f"{name} must hold head_dim / 2 = {dims.head_dim / 2:g} angles, got {len(angles)}")


_op = declare(Arguments, _reference, _check, writes=("k_pages", "v_pages"))
