"""mrope_append: the step between the qkv projection and attention.

    q[t]          <- R(angle[t]) q[t]              in place
    k_pages[slot] <- R(angle[t]) k[t]              slot = slots[t] = block * block_size + offset
    v_pages[slot] <- v[t]

Bytes that must move a token: read and write q, read k and v, write k and v, read cos and sin.
Shapes: T tokens, H query heads, G key/value heads, D head_dim, R = D / 2; pages as in `vzoom.kernels.layout`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vzoom import ext

from ..checks import check_dims, check_last_dim_contiguous, check_same_device
from ..layout import page_dims
from ..library import LIB
from ..registry import resolve
from .reference import mrope_append as _reference

LIB.define(
    "mrope_append(Tensor(a!) q, Tensor k, Tensor v, Tensor cos, Tensor sin, Tensor(b!) k_pages, Tensor(c!) v_pages, "
    "Tensor slots, str impl) -> ()"
)


def mrope_append(
    q_THD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    cos_TR: Tensor,
    sin_TR: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    slots_T: Tensor,
    *,
    impl: str = "auto",
) -> None:
    """Rotate q in place, rotate k, and write k and v into their pages. Mutates q, k_pages and v_pages.

    cos, sin [T, R]: already chosen per frequency from the three M-RoPE axes, in the tensors' dtype or float32.
    slots [T] int64, all different; a token whose slot is below 0 is rotated but not written.
    ValueError where shapes, dtypes or devices do not fit; RuntimeError where a named `impl` is not there.
    """
    torch.ops.vzoom.mrope_append(q_THD, k_TGD, v_TGD, cos_TR, sin_TR, k_pages, v_pages, slots_T, impl)


def check(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, k_pages: Tensor, v_pages: Tensor, slots: Tensor
) -> None:
    """ValueError where the arguments do not fit together."""
    check_same_device(q=q, k=k, v=v, cos=cos, sin=sin, k_pages=k_pages, v_pages=v_pages, slots=slots)
    sizes = check_dims(q=(q, "THD"), k=(k, "TGD"), v=(v, "TGD"), cos=(cos, "TR"), sin=(sin, "TR"), slots=(slots, "T"))
    check_last_dim_contiguous(q=q, k=k, v=v, cos=cos, sin=sin, k_pages=k_pages, v_pages=v_pages)
    if sizes["D"] != 2 * sizes["R"]:
        raise ValueError(f"cos must hold head_dim / 2 = {sizes['D'] / 2:g} angles a token, got {sizes['R']}")
    for name, pages in (("k_pages", k_pages), ("v_pages", v_pages)):
        dims = page_dims(pages)
        if (dims.kv_heads, dims.head_dim) != (sizes["G"], sizes["D"]):
            raise ValueError(f"{name} {tuple(pages.shape)} does not hold k of {sizes['G']} heads x {sizes['D']}")
    if k_pages.shape != v_pages.shape:
        raise ValueError(f"k_pages {tuple(k_pages.shape)} and v_pages {tuple(v_pages.shape)} must have one shape")
    if slots.dtype != torch.int64:
        raise ValueError(f"slots must be int64, got {slots.dtype}")
    for name, tensor in (("k", k), ("v", v), ("k_pages", k_pages), ("v_pages", v_pages)):
        if tensor.dtype != q.dtype:
            raise ValueError(f"{name} is {tensor.dtype} but q is {q.dtype}: all of q, k, v and pages share one dtype")
    if cos.dtype != sin.dtype or cos.dtype not in (q.dtype, torch.float32):
        raise ValueError(f"cos and sin must be {q.dtype} or float32, got {cos.dtype} and {sin.dtype}")


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    slots: Tensor,
    impl: str,
) -> None:
    chosen = resolve("mrope_append", impl, q.device.type)
    if chosen == "cpu":  # which checks its arguments itself
        ext.loaded().mrope_append(q, k, v, cos, sin, k_pages, v_pages, slots)
        return
    check(q, k, v, cos, sin, k_pages, v_pages, slots)
    if chosen == "cuda":
        run = ext.loaded().cuda_mrope_append
    elif chosen == "triton":
        from .triton_impl import mrope_append as run
    else:
        run = _reference
    run(q, k, v, cos, sin, k_pages, v_pages, slots)


def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    slots: Tensor,
    impl: str,
) -> None:
    check(q, k, v, cos, sin, k_pages, v_pages, slots)


LIB.impl("mrope_append", _run, "CPU")
LIB.impl("mrope_append", _run, "CUDA")
torch.library.register_fake("vzoom::mrope_append", _fake, lib=LIB)
