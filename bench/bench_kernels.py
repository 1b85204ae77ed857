"""The C++ kernels against their floors, the torch reference and torch's own operations, one thread.

    pytest bench/bench_kernels.py --benchmark-only

extra_info of an entry: op, impl, dtype, shape; ratio_to_floor (the time that moving the bytes or doing the FLOPs would
take at the speed this machine showed in the same run, over the time taken), target (the ratio_to_floor to reach, where
there is one), ratio_to_reference (the reference's time over ours), cpu_ms, and what else an entry compares with.
Sizes are those of Qwen2.5-VL-7B: 28 query and 4 key/value heads of 128, pages of 32 tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

sys.path.insert(0, str(Path(__file__).parent))
from kernel_floors import LARGE_BYTES, copy_large, in_turns, multiply, read_large

from vzoom.kernels.copy_blocks import copy_blocks
from vzoom.kernels.layout import new_pages
from vzoom.kernels.merge_states import merge_states
from vzoom.kernels.mrope_append import mrope_append
from vzoom.kernels.paged_attention import paged_attention
from vzoom.kernels.splice_move import splice_move

HEADS, GROUPS, DIM, BLOCK = 28, 4, 128, 32
DTYPES = [torch.bfloat16, torch.float32]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    """A bench of wrong numbers is worth nothing. The real tolerances are in the tests."""
    bound = 2e-2 if got.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(got, wanted, atol=bound, rtol=bound)


def record(
    benchmark: Any,
    op: str,
    dtype: torch.dtype,
    shape: str,
    run: Callable[[str], object],
    *,
    floors: dict[str, tuple[Callable[[], object], float]],
    target: float | None = None,
    rounds: int = 7,
    **more: Any,
) -> None:
    """floors: name -> (a call, the fraction of its time that is this op's floor). The first is ratio_to_floor's."""
    calls = {"ours": lambda: run("cpu"), "reference": lambda: run("reference")}
    taken = in_turns(calls | {name: call for name, (call, _) in floors.items()}, rounds=rounds)
    ratios = [taken[name] * share / taken["ours"] for name, (_, share) in floors.items()]
    info = {
        "op": op,
        "impl": "cpu",
        "dtype": str(dtype).removeprefix("torch."),
        "shape": shape,
        "ratio_to_floor": round(ratios[0], 3),
        "ratio_to_reference": round(taken["reference"] / taken["ours"], 2),
        "cpu_ms": round(taken["ours"] * 1e3, 3),
    }
    info |= {f"ratio_to_{name}": round(ratio, 3) for name, ratio in zip(list(floors)[1:], ratios[1:], strict=True)}
    info |= {"target": target} if target is not None else {}
    benchmark.extra_info.update(info | more)
    print(f"\n{info | more}")
    benchmark.pedantic(run, args=("cpu",), rounds=rounds)


def layers_of_pages(dtype: torch.dtype, layers: int, blocks: int) -> torch.Tensor:
    """Random pages in the memory that the engine's pool has."""
    pages = new_pages(layers, blocks, GROUPS, DIM, dtype=dtype, device=CPU, block_size=BLOCK)
    return pages.copy_(torch.randn(pages.shape))


@pytest.mark.parametrize("dtype", DTYPES, ids=["bf16", "fp32"])
def test_copy_blocks(benchmark: Any, dtype: torch.dtype) -> None:
    k, v = layers_of_pages(dtype, 4, 512), layers_of_pages(dtype, 4, 512)
    order = torch.randperm(512)
    sources, targets = order[:256], order[256:]

    def run(impl: str) -> None:
        copy_blocks(k, v, sources, targets, impl=impl)

    run("cpu")
    assert k[:, targets].equal(k[:, sources])
    moved = 2 * 2 * 4 * 256 * GROUPS * BLOCK * DIM * dtype.itemsize
    floor = (copy_large, moved / (2 * LARGE_BYTES))
    record(benchmark, "copy_blocks", dtype, "4 layers x 256 blocks", run, floors={"floor": floor}, target=0.8)


@pytest.mark.parametrize("rotated", [False, True], ids=["delta0", "rotated"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["bf16", "fp32"])
def test_splice_move(benchmark: Any, dtype: torch.dtype, rotated: bool) -> None:
    k, v = layers_of_pages(dtype, 4, 512), layers_of_pages(dtype, 4, 512)
    sources, targets = torch.arange(7, 8007), torch.arange(8192 + 3, 8192 + 8003)  # clips start anywhere in a page
    angle = torch.rand(DIM // 2, dtype=torch.float64) * 6
    cos, sin = (angle.cos().float(), angle.sin().float()) if rotated else (None, None)

    def run(impl: str) -> None:
        splice_move(k, v, sources, targets, cos, sin, impl=impl)

    run("reference")
    wanted = k.clone()
    run("cpu")
    close(k, wanted)
    moved = 2 * 2 * 4 * 8000 * GROUPS * DIM * dtype.itemsize
    name = "splice_move" + (" rotated" if rotated else " delta=0")
    floor = (copy_large, moved / (2 * LARGE_BYTES))
    record(
        benchmark, name, dtype, "4 layers x 8000 tokens", run, floors={"floor": floor}, target=0.5 if rotated else 0.8
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=["bf16", "fp32"])
def test_mrope_append(benchmark: Any, dtype: torch.dtype) -> None:
    tokens = 4096
    q, k, v = (torch.randn(tokens, n, DIM).to(dtype) for n in (HEADS, GROUPS, GROUPS))
    angle = torch.rand(tokens, DIM // 2) * 6
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    k_pages, v_pages = (new_pages(1, 256, GROUPS, DIM, dtype=dtype, device=CPU, block_size=BLOCK)[0] for _ in range(2))
    slots = torch.arange(11, 11 + tokens)

    def run(impl: str) -> None:
        mrope_append(q, k, v, cos, sin, k_pages, v_pages, slots, impl=impl)

    run("reference")
    wanted = k_pages.clone()
    run("cpu")
    close(k_pages, wanted)
    moved = tokens * (2 * HEADS + 4 * GROUPS + 1) * DIM * dtype.itemsize
    floor = (copy_large, moved / (2 * LARGE_BYTES))
    record(benchmark, "mrope_append", dtype, f"{tokens} tokens", run, floors={"floor": floor}, target=0.5)


def test_mrope_append_one_token(benchmark: Any) -> None:
    """What a call from Python costs: all of it, less what moving a token's bytes takes."""
    dtype = torch.bfloat16
    q, k, v = (torch.randn(1, n, DIM).to(dtype) for n in (HEADS, GROUPS, GROUPS))
    cos, sin = torch.ones(1, DIM // 2, dtype=dtype), torch.zeros(1, DIM // 2, dtype=dtype)
    k_pages, v_pages = (new_pages(1, 4, GROUPS, DIM, dtype=dtype, device=CPU, block_size=BLOCK)[0] for _ in range(2))
    slots = torch.tensor([5])

    def run(impl: str) -> None:
        for _ in range(1000):
            mrope_append(q, k, v, cos, sin, k_pages, v_pages, slots, impl=impl)

    moved = 1000 * (2 * HEADS + 4 * GROUPS + 1) * DIM * dtype.itemsize
    taken = in_turns({"ours": lambda: run("cpu"), "copy": copy_large}, rounds=7)
    overhead_us = (taken["ours"] - taken["copy"] * moved / (2 * LARGE_BYTES)) / 1000 * 1e6
    floor = (copy_large, moved / (2 * LARGE_BYTES))
    record(
        benchmark, "mrope_append", dtype, "1 token x 1000", run, floors={"floor": floor},
        overhead_us=round(overhead_us, 2), max_overhead_us=10,
    )  # fmt: skip


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("dtype", DTYPES, ids=["bf16", "fp32"])
def test_decode(benchmark: Any, dtype: torch.dtype, batch: int) -> None:
    context = 8192
    layers = 6 if batch == 1 else 2  # one after the other, so that no cache holds what is read
    blocks = context // BLOCK * batch
    k, v = layers_of_pages(dtype, layers, blocks), layers_of_pages(dtype, layers, blocks)
    table = torch.randperm(blocks).view(batch, -1).int()
    lengths, starts = torch.full((batch,), context).int(), torch.arange(batch + 1).int()
    q = torch.randn(batch, HEADS, DIM).to(dtype)

    def run(impl: str) -> list[torch.Tensor]:
        return [
            paged_attention(q, k[i], v[i], table, lengths, starts, scale=DIM**-0.5, impl=impl) for i in range(layers)
        ]

    close(run("cpu")[0], run("reference")[0])
    read = 2 * layers * batch * context * GROUPS * DIM * dtype.itemsize
    record(
        benchmark, "paged_attention decode", dtype, f"batch {batch}, context {context}, {layers} layers", run,
        floors={"floor": (read_large, read / LARGE_BYTES)}, target=0.6, rounds=7 if batch == 1 else 5,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=["bf16", "fp32"])
def test_append_prefill(benchmark: Any, dtype: torch.dtype) -> None:
    new, context = 600, 8192 + 600
    blocks = -(-context // BLOCK)
    k, v = layers_of_pages(dtype, 1, blocks)[0], layers_of_pages(dtype, 1, blocks)[0]
    table, lengths, starts = (
        torch.randperm(blocks)[None].int(),
        torch.tensor([context]).int(),
        torch.tensor([0, new]).int(),
    )
    q = torch.randn(new, HEADS, DIM).to(dtype)

    def run(impl: str) -> torch.Tensor:
        return paged_attention(q, k, v, table, lengths, starts, scale=DIM**-0.5, impl=impl)

    close(run("cpu"), run("reference"))
    dense = [torch.randn(1, n, t, DIM).to(dtype) for n, t in ((HEADS, new), (GROUPS, context), (GROUPS, context))]
    mask = torch.arange(context) <= torch.arange(context - new, context)[:, None]

    def sdpa() -> torch.Tensor:
        return scaled_dot_product_attention(*dense, attn_mask=mask, scale=DIM**-0.5, enable_gqa=True)

    mm, mm_flops = multiply(dtype)
    flops = 4.0 * HEADS * DIM * (new * context - new * (new - 1) / 2)
    record(
        benchmark, "paged_attention append", dtype, f"{new} tokens on {context - new}", run,
        floors={"floor": (mm, flops / mm_flops), "sdpa": (sdpa, 1.0)}, target=0.5, rounds=3,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=["bf16", "fp32"])
def test_merge_states(benchmark: Any, dtype: torch.dtype) -> None:
    tokens = 4096
    a, b, out = (torch.randn(tokens, HEADS, DIM).to(dtype) for _ in range(3))
    lse_a, lse_b = torch.randn(tokens, HEADS), torch.randn(tokens, HEADS)

    def run(impl: str) -> torch.Tensor:
        return merge_states(a, lse_a, b, lse_b, out=out, impl=impl)

    close(run("cpu").clone(), run("reference"))
    moved = 3 * tokens * HEADS * DIM * dtype.itemsize
    floor = (copy_large, moved / (2 * LARGE_BYTES))
    record(benchmark, "merge_states", dtype, f"{tokens} tokens", run, floors={"floor": floor})
