"""mrope_append: the step between the qkv projection and attention.

    q[t]          <- R(angle[t]) q[t]              in place
    k_pages[slot] <- R(angle[t]) k[t]              slot = slots[t] = block * P + offset
    v_pages[slot] <- v[t]

Bytes that must move per token: read and write q, read k and v, write k and v, read cos and sin.
Letters: see `vzoom.kernels.layout`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_dtype, check_last_dim_contiguous, check_one_dtype, check_shapes
from ..declare import declare
from ..layout import page_dims
from .reference import Arguments
from .reference import mrope_append as _reference


def mrope_append(
    q_THD: Tensor | None,
    k_TGD: Tensor,
    v_TGD: Tensor,
    cos_TR: Tensor | None,
    sin_TR: Tensor | None,
    k_pages: Tensor,
    v_pages: Tensor,
    slots_T: Tensor,
    *,
    impl: str = "auto",
) -> None:
    """Rotate q in place, rotate k, and write k and v into their pages.

    Args:
        q_THD: queries, rotated in place; None if there is nothing to rotate but k.
        k_TGD: keys, not changed. All tensors but the angles and slots have their dtype.
        v_TGD: values.
        cos_TR: of each frequency's angle, already chosen from the three M-RoPE axes, in the tensors' dtype or float32.
            None, with sin_TR and q_THD, writes keys that are already rotated as they are.
        sin_TR: as cos_TR.
        k_pages: where keys go, in the device's layout of pages.
        v_pages: where values go.
        slots_T: int64, all different. A token whose slot is below 0 is rotated but not written.
        impl: "auto", "reference", "cpu", "triton" or "cuda".

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: the named `impl` is not there.
    """
    _op(q_THD, k_TGD, v_TGD, cos_TR, sin_TR, k_pages, v_pages, slots_T, impl)


def _check(a: Arguments) -> None:
    sizes = check_shapes(a)
    check_last_dim_contiguous(
        q=a.q_THD, k=a.k_TGD, v=a.v_TGD, cos=a.cos_TR, sin=a.sin_TR, k_pages=a.k_pages, v_pages=a.v_pages
    )
    if (a.cos_TR is None) != (a.sin_TR is None):
        raise ValueError("cos and sin must both be given or both be None")
    if a.q_THD is not None and a.cos_TR is None:
        raise ValueError("q is given, but no cos and sin to rotate it by")
    if a.cos_TR is not None and sizes["D"] != 2 * sizes["R"]:
        raise ValueError(f"cos must hold head_dim / 2 = {sizes['D'] / 2:g} angles per token, got {sizes['R']}")
    dims = page_dims(a.k_pages, a.v_pages)
    if (dims.kv_heads, dims.head_dim) != (sizes["G"], sizes["D"]):
        raise ValueError(f"k_pages {tuple(a.k_pages.shape)} does not hold k of {sizes['G']} heads x {sizes['D']}")
    check_dtype(torch.int64, slots=a.slots_T)
    for name, tensor in (("q", a.q_THD), ("v", a.v_TGD), ("k_pages", a.k_pages), ("v_pages", a.v_pages)):
        if tensor is not None and tensor.dtype != a.k_TGD.dtype:
            raise ValueError(f"{name} is {tensor.dtype} but k is {a.k_TGD.dtype}: q, k, v and pages share one dtype")
    if a.cos_TR is not None:
        check_dtype((a.k_TGD.dtype, torch.float32), cos=a.cos_TR)
        check_one_dtype(cos=a.cos_TR, sin=a.sin_TR)


_op = declare(Arguments, _reference, _check, writes=("q_THD", "k_pages", "v_pages"))
