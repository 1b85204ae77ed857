"""splice_move: cached tokens to other slots, their keys rotated to other positions; all layers in one launch.

    k_pages[layer, targets[n]] <- R(delta) k_pages[layer, sources[n]]
    v_pages[layer, targets[n]] <- v_pages[layer, sources[n]]

Moving a clip shifts all three M-RoPE axes by the same delta, so one cosine and sine a frequency serves every token of
it. Without angles (delta = 0) it is compaction, and bitwise. Rotate from the original each time: repeated moves drift.
Bytes that must move: 4 G D values a token and layer (K and V, read and written).
Shapes: L layers, N tokens, G key/value heads, D head_dim, R = D / 2; pages [L, *pages of a layer].
"""

from __future__ import annotations

import torch
from torch import Tensor

from vzoom import ext

from ..checks import check_dims, check_last_dim_contiguous, check_same_device
from ..layout import check_layered_pages
from ..library import LIB
from ..registry import resolve
from .reference import splice_move as _reference

LIB.define(
    "splice_move(Tensor(a!) k_pages, Tensor(b!) v_pages, Tensor sources, Tensor targets, Tensor? cos, Tensor? sin, "
    "str impl) -> ()"
)


def splice_move(
    k_pages: Tensor,
    v_pages: Tensor,
    source_slots_N: Tensor,
    target_slots_N: Tensor,
    cos_R: Tensor | None = None,
    sin_R: Tensor | None = None,
    *,
    impl: str = "auto",
) -> None:
    """Move tokens between slots of the stacked pages. Mutates k_pages and v_pages.

    sources, targets [N] int64 slots (block * block_size + offset). The targets are all different and none is the source
    of another token: moves run in any order. A pair with a slot below 0 is skipped.
    cos, sin [R] float32: of delta times each frequency, computed in float64 and rounded once; None moves unrotated.
    The rotation is computed in float32.
    ValueError where shapes, dtypes or devices do not fit; RuntimeError where a named `impl` is not there.
    """
    torch.ops.vzoom.splice_move(k_pages, v_pages, source_slots_N, target_slots_N, cos_R, sin_R, impl)


def check(
    k_pages: Tensor, v_pages: Tensor, sources: Tensor, targets: Tensor, cos: Tensor | None, sin: Tensor | None
) -> None:
    """ValueError where the arguments do not fit together."""
    check_same_device(k_pages=k_pages, v_pages=v_pages, sources=sources, targets=targets, cos=cos, sin=sin)
    dims = check_layered_pages(k_pages, v_pages)
    check_dims(sources=(sources, "N"), targets=(targets, "N"))
    check_last_dim_contiguous(k_pages=k_pages, v_pages=v_pages)
    for name, slots in (("sources", sources), ("targets", targets)):
        if slots.dtype != torch.int64:
            raise ValueError(f"{name} must be int64, got {slots.dtype}")
    if (cos is None) != (sin is None):
        raise ValueError("cos and sin must both be given or both be None")
    for name, angles in (("cos", cos), ("sin", sin)):
        if angles is None:
            continue
        if dims.head_dim % 2 or tuple(angles.shape) != (dims.head_dim // 2,):
            raise ValueError(f"{name} must hold head_dim / 2 = {dims.head_dim / 2:g} angles, got {tuple(angles.shape)}")
        if angles.dtype != torch.float32:
            raise ValueError(f"{name} must be float32, got {angles.dtype}")


def _run(
    k_pages: Tensor,
    v_pages: Tensor,
    sources: Tensor,
    targets: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    impl: str,
) -> None:
    chosen = resolve("splice_move", impl, k_pages.device.type)
    if chosen == "cpu":  # which checks its arguments itself
        ext.loaded().splice_move(k_pages, v_pages, sources, targets, cos, sin)
        return
    check(k_pages, v_pages, sources, targets, cos, sin)
    if chosen == "cuda":
        run = ext.loaded().cuda_splice_move
    elif chosen == "triton":
        from .triton_impl import splice_move as run
    else:
        run = _reference
    run(k_pages, v_pages, sources, targets, cos, sin)


def _fake(
    k_pages: Tensor,
    v_pages: Tensor,
    sources: Tensor,
    targets: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    impl: str,
) -> None:
    check(k_pages, v_pages, sources, targets, cos, sin)


LIB.impl("splice_move", _run, "CPU")
LIB.impl("splice_move", _run, "CUDA")
torch.library.register_fake("vzoom::splice_move", _fake, lib=LIB)
