"""The CUDA C++ kernels on the CPU: the same .cu files, compiled by g++ against csrc/shim; three orders of threads."""

from __future__ import annotations

from types import ModuleType

import cuda_shim
import pytest
import torch

from vzoom.kernels.frames_to_patches.cuda_impl import choose_tile
from vzoom.kernels.frames_to_patches.device_weights import device_pass
from vzoom.kernels.suite import Check, all_checks, attention_case


@pytest.mark.parametrize("check", all_checks(cuda_shim.OPS), ids=str)
def test_check(shim: ModuleType, check: Check) -> None:
    check.body(cuda_shim.ShimRunner(shim))


@pytest.mark.parametrize("order", ["backward", "shuffled"])
@pytest.mark.parametrize("check", [c for c in all_checks(cuda_shim.OPS) if c.dtype == torch.bfloat16], ids=str)
def test_check_in_other_orders(shim: ModuleType, check: Check, order: str) -> None:
    """Attention with its context cut into pieces, some of which hold no key."""
    shim.set_order(order)
    check.body(cuda_shim.ShimRunner(shim, splits=3))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("barrier", "__syncthreads was reached by 32 of 64 threads; 32 have returned"),
        ("lane", "waits for lanes that never come"),
        ("alignment", "an access of 16 bytes is not aligned"),
        ("shared", "written beyond the dynamic shared memory"),
    ],
)
def test_the_shim_finds_faults(shim: ModuleType, fault: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        shim.run_fault(fault)
    assert shim.run_fault("none"), "a fault must not outlive its launch"


def test_a_missing_barrier_shows_in_some_order(shim: ModuleType) -> None:
    right = {}
    for order in ("forward", "backward", "shuffled"):
        shim.set_order(order)
        right[order] = shim.run_fault("race")
    assert not all(right.values())


def test_misfits_name_the_argument(shim: ModuleType) -> None:
    case = attention_case([(1, 6)], heads=2, kv_heads=2, dim=16, block_size=4, dtype=torch.float32)
    runner = cuda_shim.ShimRunner(shim)
    pages = [runner.put_pages(p) for p in (case.k_pages, case.v_pages)]
    out = torch.empty_like(case.q)

    def attend(*middle: torch.Tensor) -> None:
        shim.cuda_paged_attention(case.q, *pages, *middle, out, None, 1.0, True, None, None)

    with pytest.raises(ValueError, match="kv_lens must be int32, got int64"):
        attend(case.block_table, case.kv_lens.long(), case.cu_seqlens_q)
    with pytest.raises(ValueError, match="cu_seqlens_q must hold S \\+ 1 numbers"):
        attend(case.block_table, case.kv_lens, case.cu_seqlens_q[:1])
    double = pages[0].double()[None]
    with pytest.raises(ValueError, match="k_pages must be float32, bfloat16 or float16 for CUDA, got float64"):
        shim.cuda_splice_move(double, double.clone(), torch.zeros(1).long(), torch.ones(1).long(), None, None)


def test_a_steep_shrink_takes_smaller_tiles_then_raises() -> None:
    def tile(in_size: int) -> int:
        return choose_tile(device_pass(in_size, 28, "bicubic", torch.device("cpu")), 14)

    assert (tile(56), tile(1000)) == (28, 14)
    with pytest.raises(ValueError, match="resize in two steps"):
        tile(4000)
