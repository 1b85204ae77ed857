"""Fixtures of the kernels' tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from types import ModuleType

import cuda_shim
import pytest

from vzoom.kernels import extension


@pytest.fixture(params=["scalar", "avx2", "avx512", "avx512bf16"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this machine has, in turn."""
    native = extension.native()
    if native is None:
        pytest.fail("the extension is not installed: pip install .")
    try:
        native.set_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    native.set_isa("auto")


@pytest.fixture(scope="session")
def built_shim(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The CUDA C++ compiled for the CPU, once."""
    if shutil.which("g++") is None:
        pytest.skip("the shim needs g++")
    return cuda_shim.build(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def shim(built_shim: ModuleType) -> Iterator[ModuleType]:
    """The same, with its threads in their usual order before and after the test."""
    built_shim.set_order("forward")
    yield built_shim
    built_shim.set_order("forward")
