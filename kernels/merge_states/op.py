"""merge_states: attention over two disjoint sets of keys, combined by log-sum-exp.

    lse = log(exp(lse_a) + exp(lse_b))
    out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b

A group of rollouts attends to its shared prefix once (as one long batch of queries) and each to its own suffix; this
joins the two. Where one side saw no key (LSE -inf) the other is taken as it is; where neither did, 0 and -inf.
Bytes that must move: two outputs read, one written (3 T H D values), and the LSEs.
Shapes: T tokens, H query heads, D head_dim. Source of the formula: Cascade Inference, flashinfer.ai (2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vzoom import ext

from ..checks import check_dims, check_last_dim_contiguous, check_same_device
from ..library import LIB
from ..registry import resolve
from .reference import merge_states as _reference

LIB.define(
    "merge_states(Tensor out_a, Tensor lse_a, Tensor out_b, Tensor lse_b, Tensor(a!) out, Tensor(b!)? lse, str impl)"
    " -> ()"
)


def merge_states(
    out_a_THD: Tensor,
    lse_a_TH: Tensor,
    out_b_THD: Tensor,
    lse_b_TH: Tensor,
    *,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """Merge two partial attentions; returns out [T, H, D].

    lse_a, lse_b [T, H] float32. `out` is made where it is not given and may not share memory with out_a or out_b;
    `lse` [T, H] float32 is written where it is given.
    ValueError where shapes, dtypes or devices do not fit; RuntimeError where a named `impl` is not there.
    """
    if out is None:
        out = torch.empty_like(out_a_THD, memory_format=torch.contiguous_format)
    torch.ops.vzoom.merge_states(out_a_THD, lse_a_TH, out_b_THD, lse_b_TH, out, lse, impl)
    return out


def check(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor, out: Tensor, lse: Tensor | None) -> None:
    """ValueError where the arguments do not fit together."""
    check_same_device(out_a=out_a, lse_a=lse_a, out_b=out_b, lse_b=lse_b, out=out, lse=lse)
    check_dims(out_a=(out_a, "THD"), lse_a=(lse_a, "TH"), out_b=(out_b, "THD"), lse_b=(lse_b, "TH"), out=(out, "THD"))
    check_last_dim_contiguous(out_a=out_a, out_b=out_b, out=out)
    if lse is not None:
        check_dims(lse_a=(lse_a, "TH"), lse=(lse, "TH"))
    for name, tensor in (("out_b", out_b), ("out", out)):
        if tensor.dtype != out_a.dtype:
            raise ValueError(f"{name} is {tensor.dtype} but out_a is {out_a.dtype}: they must share one dtype")
    for name, scores in (("lse_a", lse_a), ("lse_b", lse_b), ("lse", lse)):
        if scores is not None and scores.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} must be float32, got {scores.dtype}")


def _run(
    out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor, out: Tensor, lse: Tensor | None, impl: str
) -> None:
    chosen = resolve("merge_states", impl, out_a.device.type)
    if chosen == "cpu":  # which checks its arguments itself
        ext.loaded().merge_states(out_a, lse_a, out_b, lse_b, out, lse)
        return
    check(out_a, lse_a, out_b, lse_b, out, lse)
    if chosen == "cuda":
        run = ext.loaded().cuda_merge_states
    elif chosen == "triton":
        from .triton_impl import merge_states as run
    else:
        run = _reference
    run(out_a, lse_a, out_b, lse_b, out, lse)


def _fake(
    out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor, out: Tensor, lse: Tensor | None, impl: str
) -> None:
    check(out_a, lse_a, out_b, lse_b, out, lse)


LIB.impl("merge_states", _run, "CPU")
LIB.impl("merge_states", _run, "CUDA")
torch.library.register_fake("vzoom::merge_states", _fake, lib=LIB)
