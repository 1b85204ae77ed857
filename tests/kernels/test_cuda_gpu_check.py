"""`vzoom doctor --gpu` as far as a machine without a GPU can go, and the suite itself where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from vzoom.kernels.suite.checks import all_checks

from vzoom.kernels import gpu_check
from vzoom.kernels.gpu_workloads import Sizes, workloads
from vzoom.kernels.registry import OPS, missing

CPU = torch.device("cpu")
SMALL = Sizes(context=64, appended=5, layers=2, moved=6, merged=3, frames=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    saved = tmp_path / "table.json"
    assert gpu_check.main(["--save", str(saved)]) == 2
    assert "no GPU was found" in capsys.readouterr().err
    assert not saved.exists()
    with pytest.raises(gpu_check.NoGpu, match="nvidia-smi"):
        gpu_check.run_gpu_check()


def test_workloads_run_and_know_their_floors() -> None:
    seen = {}
    for work in workloads("reference", CPU, SMALL):
        work.call()
        assert work.bytes > 0
        seen[work.op, work.shape] = work
    assert {op for op, _ in seen} == set(OPS)
    # 2 layers x 6 tokens x (K and V, read and written) x 4 heads x 128 x 2 bytes
    assert seen["splice_move", "6 tokens, 2 layers, rotated"].bytes == 2 * 6 * 4 * 4 * 128 * 2
    # queries 60 .. 64 of 64 keys see 60 + 61 + 62 + 63 + 64 = 310
    assert seen["paged_attention", "batch 1, 5 queries on 64 keys"].flops == 4 * 310 * 28 * 128
    assert seen["paged_attention", "batch 8, 1 queries on 64 keys"].flops == 0


def test_the_report_reads_well() -> None:
    timing = gpu_check.Timing("copy_blocks", "cuda", "16 blocks", 10.0, 11.0, 8.0, 0.8, True)
    text = gpu_check.GpuReport("H100", "2.13", 3000.0, 700.0, {}, 5, {"cuda x": "error 1"}, [timing]).text()
    assert "FAILED cuda x: error 1" in text
    assert " 0.80 yes" in text


@pytest.mark.needs_cuda
@pytest.mark.parametrize("impl", ["triton", "cuda"])
@pytest.mark.parametrize("op", OPS)
def test_checks_on_the_gpu(op: str, impl: str) -> None:
    reason = missing(op, impl, "cuda")
    if reason is not None:
        pytest.skip(reason)
    others = {f"{name} {other}": "" for name in gpu_check.IMPLS for other in OPS if (name, other) != (impl, op)}
    passed, failed = gpu_check.run_checks(torch.device("cuda"), others)
    assert not failed
    assert passed == sum(check.op == op for check in all_checks())


@pytest.mark.needs_cuda
@pytest.mark.parametrize("impl", ["triton", "cuda"])
def test_every_op_can_be_captured(impl: str) -> None:
    for work in workloads(impl, torch.device("cuda"), SMALL):
        if missing(work.op, impl, "cuda") is None:
            assert gpu_check.time_one(work, impl, 1e12, 1e12).captured, work.op
