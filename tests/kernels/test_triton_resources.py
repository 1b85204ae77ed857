"""Triton kernels compile ahead of time for each GPU, spill nothing and move 16 bytes at once; no GPU is needed."""

from __future__ import annotations

import json

import pytest
from gpu_resources import RECORD, assert_as_recorded

triton = pytest.importorskip("triton", reason="triton is not installed: pip install '.[gpu]'")

from aot.resources import ARCHITECTURES  # noqa: E402
from aot.specimens import triton_specimens  # noqa: E402
from aot.triton_aot import triton_resources  # noqa: E402

from vzoom.kernels.registry import GPU_OPS  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
QUICK = ("mrope_append bf16 128", "paged_attention bf16 128 append", "paged_attention bf16 128 decode")
MOVES = ("copy_blocks bf16 128", "splice_move bf16 128", "merge_states bf16 128", "frames_to_patches bf16 14")


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def test_common_kernels_on_hopper() -> None:
    specimens = {name: call for name, call in triton_specimens().items() if name in (*QUICK, *MOVES)}
    assert len(specimens) == 7
    assert_as_recorded("triton", triton.__version__, triton_resources(specimens, (90,)))


def test_every_op_has_a_specimen() -> None:
    assert {name.split()[0] for name in triton_specimens()} == set(GPU_OPS)


@pytest.mark.slow
def test_all_kernels_on_all_architectures() -> None:
    table = triton_resources(triton_specimens())
    assert_as_recorded("triton", triton.__version__, table)
    assert table.keys() == json.loads(RECORD.read_text())["triton"]["kernels"].keys()


def test_the_record_has_wide_accesses() -> None:
    """What moves memory does it 16 bytes a thread; frames_to_patches gathers bytes and cannot."""
    record = json.loads(RECORD.read_text())["triton"]["kernels"]
    for name, row in record.items():
        assert row.keys() == {f"sm_{architecture}" for architecture in ARCHITECTURES}
        for arch, found in row.items():
            assert found["local_accesses"] == 0, (name, arch)
            if "resize_kernel" not in name and "join_pieces" not in name:
                assert found["wide_loads"] + found["wide_copies"] > 0, (name, arch)
                assert found["wide_stores"] > 0, (name, arch)
