"""`vzoom doctor --gpu` as far as a machine without a GPU can go, and the suite itself where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vzoom.kernels import gpu_check
from vzoom.kernels.registry import GPU_OPS, OPS, missing
from vzoom.kernels.suite import all_checks
from vzoom.kernels.workload import Sizes, Workload, workloads

CPU = torch.device("cpu")
SMALL = Sizes(
    tokens=(1, 5), decode=((1, 1), (8, 2)), context=64, append=(5, 64), layers=2, copies=3, moved=6, first_slot=3,
    merged=3, frames=1, rows=(2,), weight_bytes=1,
)  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    saved = tmp_path / "table.json"
    assert gpu_check.main(["--save", str(saved)]) == 2
    assert "no GPU was found" in capsys.readouterr().err
    assert not saved.exists()
    with pytest.raises(gpu_check.NoGpu, match="nvidia-smi"):
        gpu_check.run_gpu_check()


@pytest.mark.parametrize("op", OPS)
def test_workloads_run(op: str) -> None:
    """On every implementation that is here, again and again, with the same numbers."""
    found = workloads(op, CPU, torch.bfloat16, SMALL)
    assert found
    for work in found:
        run = work.prepare()
        wanted = run("reference").clone()
        assert wanted.isfinite().all(), work
        torch.testing.assert_close(run("cpu"), wanted, atol=2e-2, rtol=2e-2)
        torch.testing.assert_close(run("cpu"), wanted, atol=2e-2, rtol=2e-2)


def test_workloads_know_their_floors() -> None:
    def named(op: str) -> dict[str, Workload]:
        return {work.shape: work for work in workloads(op, CPU, torch.bfloat16, SMALL)}

    # 2 layers x 6 tokens x (K and V, read and written) x 4 heads x 128 x 2 bytes
    assert named("splice_move")["2 layers x 6 tokens, rotated"].bytes == 2 * 6 * 4 * 4 * 128 * 2
    attention = named("paged_attention")
    # queries 60 .. 64 of 64 keys see 60 + 61 + 62 + 63 + 64 = 310
    assert attention["append, 5 queries on 64 keys"].flops == 4 * 310 * 28 * 128
    decode = attention["decode, batch 8, context 64, 2 layers"]
    assert decode.flops == 0
    assert decode.bytes == 2 * 8 * (64 * 2 * 4 + 2 * 28) * 128 * 2
    assert all(work.bytes > 0 for op in OPS for work in named(op).values())


def test_the_report_reads_well() -> None:
    timing = gpu_check.Timing("copy_blocks", "cuda", "16 blocks", 10.0, 11.0, 8.0, 0.8, True)
    text = gpu_check.GpuReport("H100", "2.13", 3000.0, 700.0, {}, 5, {"cuda x": "error 1"}, [timing]).text()
    assert "FAILED cuda x: error 1" in text
    assert " 0.80 yes" in text


@pytest.mark.needs_cuda
@pytest.mark.parametrize("impl", ["triton", "cuda"])
@pytest.mark.parametrize("op", GPU_OPS)
def test_checks_on_the_gpu(op: str, impl: str) -> None:
    reason = missing(op, impl, "cuda")
    if reason is not None:
        pytest.skip(reason)
    others = {f"{name} {other}": "" for name in gpu_check.IMPLS for other in GPU_OPS if (name, other) != (impl, op)}
    passed, failed = gpu_check.run_checks(torch.device("cuda"), others)
    assert not failed
    assert passed == sum(check.op == op for check in all_checks(GPU_OPS))


@pytest.mark.needs_cuda
@pytest.mark.parametrize("impl", ["triton", "cuda"])
def test_every_op_can_be_captured(impl: str) -> None:
    for op in GPU_OPS:
        for work in workloads(op, torch.device("cuda"), torch.bfloat16, SMALL):
            if missing(op, impl, "cuda") is None:
                assert gpu_check.time_one(work, impl, 1e12, 1e12).captured, work
