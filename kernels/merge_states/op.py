"""merge_states: attention over two disjoint sets of keys, combined by log-sum-exp.

    lse = log(exp(lse_a) + exp(lse_b))
    out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b

A group of rollouts attends to its shared prefix once (as one long batch of queries) and each to its own suffix; this
joins the two. If one side saw no key (LSE -inf) the other is taken as it is; if neither did, 0 and -inf.
Bytes that must move: two outputs read, one written (3 T H D values), and the LSEs.
Letters: see `vzoom.kernels.layout`. Source of the formula: Cascade Inference, flashinfer.ai (2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_dtype, check_last_dim_contiguous, check_one_dtype, check_shapes
from ..declare import declare
from .reference import Arguments
from .reference import merge_states as _reference


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
    """Merge two partial attentions.

    Args:
        out_a_THD: what attention to the first set of keys gave.
        lse_a_TH: float32, the log-sum-exp of its scores.
        out_b_THD: the same of the second set of keys.
        lse_b_TH: the same of the second set of keys.
        out: where the result goes, [T, H, D]. It may not share memory with out_a or out_b; None makes a tensor.
        lse: float32 [T, H], written if given.
        impl: "auto", "reference", "cpu", "triton" or "cuda".

    Returns:
        `out`.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: the named `impl` is not there.
    """
    if out is None:
        out = torch.empty_like(out_a_THD, memory_format=torch.contiguous_format)
    _op(out_a_THD, lse_a_TH, out_b_THD, lse_b_TH, out, lse, impl)
    return out


def _check(a: Arguments) -> None:
    check_shapes(a)
    check_last_dim_contiguous(out_a=a.out_a_THD, out_b=a.out_b_THD, out=a.out_THD)
    check_one_dtype(out_a=a.out_a_THD, out_b=a.out_b_THD, out=a.out_THD)
    check_dtype((torch.float32, torch.float64), lse_a=a.lse_a_TH, lse_b=a.lse_b_TH, lse=a.lse_TH)


_op = declare(Arguments, _reference, _check, writes=("out_THD", "lse_TH"))
