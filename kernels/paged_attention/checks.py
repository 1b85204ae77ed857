"""Checks of paged_attention."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ..layout import page_shape
from ..suite import (
    DTYPES,
    HEAD_DIMS,
    AttentionCase,
    Check,
    Runner,
    attention_case,
    poisoned,
    shifted,
    within_tolerance,
)
from .reference import Arguments
from .reference import paged_attention as reference


def checks() -> Iterator[Check]:
    """List the checks."""
    ragged = [(5, 21), (1, 9), (0, 6), (7, 7)]
    decode = [(1, 70), (1, 1), (1, 33)]
    for dtype in DTYPES:
        for dim in HEAD_DIMS:
            for name, runs in (("append", ragged), ("decode", decode)):
                body = partial(_check, runs, dim=dim, dtype=dtype, heads=6, kv_heads=2)
                yield Check("paged_attention", f"{name} head_dim {dim}", dtype, body)
        for block_size in (1, 7, 256):
            body = partial(_check, [(2, 19), (1, 8)], dim=64, dtype=dtype, block_size=block_size)
            yield Check("paged_attention", f"pages of {block_size}", dtype, body)
        for name, runs, more in (
            ("not causal", ragged, {"causal": False}),
            ("no lse", decode, {"with_lse": False}),
            ("shared first page", [(1, 40), (1, 50), (2, 34)], {"share_first_block": True}),
            ("no keys", [(1, 0), (3, 2)], {}),
            ("no keys in decode", [(1, 0), (1, 2)], {}),
            ("no queries", [(0, 5)], {}),
            ("several tiles", [(90, 100), (3, 3)], {}),
            ("7 heads per group", [(1, 65), (1, 40)], {"heads": 14}),
            ("12 heads per group", [(1, 65), (2, 40)], {"heads": 24}),
            ("1 head per group", [(1, 65), (1, 40)], {"heads": 2}),
            ("one group", decode, {"heads": 4, "kv_heads": 1}),
            ("unaligned head_dim 20", [(1, 65), (1, 40)], {"dim": 20}),
            ("unaligned storage", decode, {"unaligned": True}),
            ("long context", [(1, 1500), (1, 3)], {"heads": 2, "kv_heads": 1}),
        ):
            settings = {"dim": 64, "heads": 6, "kv_heads": 2, **more}
            body = partial(_check, runs, dtype=dtype, **settings)  # type: ignore[arg-type]
            yield Check("paged_attention", name, dtype, body)


def example(device: torch.device) -> Arguments:
    """Make small arguments."""
    k_pages, v_pages = (torch.randn(page_shape(6, 2, 4, 16, device=device), device=device) for _ in range(2))
    table, lens, starts = (
        torch.tensor(numbers, dtype=torch.int32, device=device) for numbers in ([[1, 3], [2, 0]], [7, 2], [0, 4, 5])
    )
    q, out, lse = (torch.randn(shape, device=device) for shape in ((5, 4, 16), (5, 4, 16), (5, 4)))
    return Arguments(q, k_pages, v_pages, table, lens, starts, out, lse, 0.25, True)


def _check(
    runs: list[tuple[int, int]],
    runner: Runner,
    *,
    dim: int,
    dtype: torch.dtype,
    heads: int = 4,
    kv_heads: int = 2,
    block_size: int = 16,
    causal: bool = True,
    with_lse: bool = True,
    share_first_block: bool = False,
    unaligned: bool = False,
) -> None:
    """out and lse against the reference in float64; both start as NaN. q is a slice of wider rows."""
    case = attention_case(
        runs,
        heads=heads,
        kv_heads=kv_heads,
        dim=dim,
        block_size=block_size,
        dtype=dtype,
        share_first_block=share_first_block,
    )
    scale = dim**-0.5
    truth, truth_lse = _by_reference(case.to(torch.float64), scale, causal)
    torch_got, torch_lse = _by_reference(case, scale, causal)

    tokens = case.q.shape[0]
    wide = poisoned(tokens, heads + 2 * kv_heads, dim, dtype=dtype)
    wide[:, :heads] = case.q
    out = runner.put(poisoned(tokens, heads, dim, dtype=dtype))
    lse = runner.put(poisoned(tokens, heads, dtype=torch.float32)) if with_lse else None
    tensors = (
        runner.put(shifted(wide) if unaligned else wide)[:, :heads],
        runner.put_pages(case.k_pages),
        runner.put_pages(case.v_pages),
        *(runner.put(t) for t in (case.block_table, case.kv_lens, case.cu_seqlens_q)),
    )
    runner.run("paged_attention", *tensors, out, lse, scale, causal)
    within_tolerance("out", out, torch_got, truth)
    if lse is not None:
        within_tolerance("lse", lse, torch_lse.float(), truth_lse)


def _by_reference(case: AttentionCase, scale: float, causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
    out = torch.empty_like(case.q)
    lse = torch.empty(case.q.shape[:2], dtype=torch.promote_types(case.q.dtype, torch.float32))
    reference(Arguments(*case.args, out, lse, scale, causal))
    return out, lse
