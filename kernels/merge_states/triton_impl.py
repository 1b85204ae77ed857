"""merge_states in Triton: one program per tile of (token, head) rows."""

from __future__ import annotations

import triton
import triton.language as tl

from ..gpu import check_gpu_dtype, on_device_of, power_of_2, warps_for
from .reference import Arguments

ROWS = 16  # (token, head) rows per program


@triton.jit
def merge_states_kernel(  # type: ignore[no-untyped-def]
    out_a,
    lse_a,
    out_b,
    lse_b,
    out,
    lse,
    a_token,
    a_head,
    la_token,
    la_head,
    b_token,
    b_head,
    lb_token,
    lb_head,
    o_token,
    o_head,
    l_token,
    l_head,
    rows,
    heads,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_LSE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    token, head = row // heads, row % heads
    dim = tl.arange(0, D_PAD)
    mask = there[:, None] & (dim < D)[None, :]
    score_a = tl.load(lse_a + token * la_token + head * la_head, mask=there, other=float("-inf")).to(tl.float32)
    score_b = tl.load(lse_b + token * lb_token + head * lb_head, mask=there, other=float("-inf")).to(tl.float32)
    top = tl.maximum(score_a, score_b)
    safe = tl.where(top == float("-inf"), 0.0, top)  # -inf - -inf is no number
    weight_a, weight_b = tl.exp(score_a - safe), tl.exp(score_b - safe)
    total = weight_a + weight_b
    scale = tl.where(total > 0, 1.0 / tl.where(total > 0, total, 1.0), 0.0)

    # A side without keys may hold anything, NaN too: it is not read.
    mask_a, mask_b = mask & (weight_a > 0)[:, None], mask & (weight_b > 0)[:, None]
    a = tl.load(out_a + (token * a_token + head * a_head)[:, None] + dim[None, :], mask=mask_a, other=0.0)
    b = tl.load(out_b + (token * b_token + head * b_head)[:, None] + dim[None, :], mask=mask_b, other=0.0)
    merged = a.to(tl.float32) * (weight_a * scale)[:, None] + b.to(tl.float32) * (weight_b * scale)[:, None]
    to = out + (token * o_token + head * o_head)[:, None] + dim[None, :]
    tl.store(to, merged.to(out.dtype.element_ty), mask=mask)
    if HAS_LSE:
        both = tl.where(total > 0, safe + tl.log(tl.where(total > 0, total, 1.0)), float("-inf"))
        tl.store(lse + token * l_token + head * l_head, both.to(lse.dtype.element_ty), mask=there)


def merge_states(a: Arguments) -> None:
    """Run the op."""
    check_gpu_dtype("out_a", a.out_a_THD)
    tokens, heads, dim = a.out_a_THD.shape
    if tokens * heads == 0:
        return
    with on_device_of(a.out_a_THD):
        merge_states_kernel[(triton.cdiv(tokens * heads, ROWS),)](
            *a,
            *a.out_a_THD.stride()[:2],
            *a.lse_a_TH.stride(),
            *a.out_b_THD.stride()[:2],
            *a.lse_b_TH.stride(),
            *a.out_THD.stride()[:2],
            *(a.lse_TH.stride() if a.lse_TH is not None else (0, 0)),
            tokens * heads,
            heads,
            D=dim,
            D_PAD=power_of_2(dim),
            ROWS=ROWS,
            HAS_LSE=a.lse_TH is not None,
            num_warps=warps_for(ROWS * power_of_2(dim), a.out_a_THD.element_size()),
        )
