"""The CUDA C++ compiles with nvcc for each GPU, spills nothing and moves 16 bytes at once; no GPU is needed."""

from __future__ import annotations

import json

import pytest
from aot.cuda_aot import SOURCES, cuda_resources, nvcc_version
from aot.resources import ARCHITECTURES
from gpu_resources import RECORD, assert_as_recorded

VERSION = nvcc_version()
needs_nvcc = pytest.mark.skipif(VERSION is None, reason="nvcc is not on the path")


@needs_nvcc
def test_moving_kernels_on_hopper() -> None:
    pytest.importorskip("triton", reason="cuobjdump comes in the triton wheel")
    assert VERSION is not None
    files = ("mrope_append", "copy_blocks", "splice_move", "merge_states")
    assert_as_recorded("cuda", VERSION, cuda_resources((90,), files))


@needs_nvcc
@pytest.mark.slow
def test_all_kernels_on_all_architectures() -> None:
    pytest.importorskip("triton", reason="cuobjdump comes in the triton wheel")
    assert VERSION is not None
    table = cuda_resources()
    assert_as_recorded("cuda", VERSION, table)
    assert table.keys() == json.loads(RECORD.read_text())["cuda"]["kernels"].keys()


def test_the_record_has_wide_accesses() -> None:
    """The last template argument is WIDE: rows that start on 16 bytes."""
    record = json.loads(RECORD.read_text())["cuda"]["kernels"]
    assert {name.split("/")[0] for name in record} == {source.stem for source in SOURCES.glob("*.cu")}
    wide = {name: row for name, row in record.items() if name.endswith("true>")}
    assert len(wide) >= 25
    for name, row in record.items():
        assert row.keys() == {f"sm_{architecture}" for architecture in ARCHITECTURES}
        for arch, found in row.items():
            assert found["local_accesses"] == 0, (name, arch)
            if name in wide:
                assert found["wide_stores"] > 0, (name, arch)
                assert found["wide_loads"] > 0 or "resize_kernel" in name, (name, arch)
