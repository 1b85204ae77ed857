"""`python -m vzoom.kernels`: list, bench one op, and the scaffold of a new one, written into a copy of the tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from vzoom.kernels.__main__ import main
from vzoom.kernels.bench_op import bench_op, check_numbers
from vzoom.kernels.registry import OPS
from vzoom.kernels.scaffold import NoSourceTree, scaffold
from vzoom.kernels.workload import Sizes, Workload, workloads

ROOT = Path(__file__).parents[2]
TINY = Sizes(decode=((1, 1),), context=64, append=(5, 64), rows=(2,), weight_bytes=1)
# What runs the checks of an op on the implementation that its C++ was compiled to.
MODULE = """
#include "bind_ops.h"
PYBIND11_MODULE(_vzoom, m) {
  pybind11::register_local_exception<vz::BadArgument>(m, "BadArgument", PyExc_ValueError);
  m.attr("__version__") = VERSION;
  vz::bind_cpu_ops(m);
  vz::bind_cuda_ops(m);
}
"""


def test_list_says_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [[op, "cpu"] for op in OPS]


def test_bench_times_one_op() -> None:
    rows = list(bench_op("paged_attention", device=torch.device("cpu"), dtypes=["float32"], sizes=TINY, rounds=2))
    assert [row.work.shape for row in rows] == ["decode, batch 1, context 64", "append, 5 queries on 64 keys"]
    for row in rows:
        assert row.impl == "cpu"
        assert row.median_us > 0
        assert row.to_floor > 0
        assert row.to_reference is not None
        assert row.work.shape in row.line()


def test_wrong_numbers_are_not_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (work,) = workloads("merge_states", torch.device("cpu"), torch.float32, Sizes(merged=2))
    with pytest.raises(AssertionError, match="merge_states, 2 tokens, float32: Tensor-likes are not close"):
        check_numbers(work, torch.zeros(2), torch.ones(2))
    wrong = Workload("merge_states", torch.float32, "2", lambda: lambda impl: torch.ones(1) * len(impl), 1)
    monkeypatch.setattr("vzoom.kernels.bench_op.workloads", lambda *arguments: [wrong])
    assert main(["bench", "merge_states", "--dtype", "float32", "--device", "cpu"]) == 1
    assert "the numbers are wrong, so nothing is timed" in capsys.readouterr().err


def test_what_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "linear", "--impl", "triton", "--device", "cpu"]) == 2
    assert "linear has no Triton implementation" in capsys.readouterr().err


def test_scaffold_needs_a_source_tree_and_a_new_name(tmp_path: Path) -> None:
    with pytest.raises(NoSourceTree, match="pip install -e"):
        scaffold("top_k", tmp_path)
    for name in ("Top", "a-b", "class"):
        with pytest.raises(ValueError, match="a Python name in lower case"):
            scaffold(name)
    with pytest.raises(ValueError, match="silu_mul is there already"):
        scaffold("silu_mul")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with a new op in it, and that op's C++ as its extension."""
    copy = tmp_path_factory.mktemp("clone")
    caches = shutil.ignore_patterns("__pycache__", "assets")
    for folder in ("vzoom", "kernels", "csrc"):
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=caches)
    shutil.copy(ROOT / "CMakeLists.txt", copy)
    made = run(copy, "-m", "vzoom.kernels", "scaffold", "half_it")
    for path in ("kernels/half_it/op.py", "kernels/half_it/checks.py", "csrc/cpu/half_it.cpp", "vzoom/_vzoom.pyi"):
        assert f"wrote {path}" in made
        assert "half_it" in (copy / path).read_text()
    return copy


def run(tree: Path, *arguments: str) -> str:
    """Output of Python in the tree, which sees nothing of the one that is tested: without `site`, no .pth file of an
    editable install is read, which would put that one first."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tree), sysconfig.get_path("purelib")])}
    done = subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


CHECK = """
import sys, torch
import vzoom
assert vzoom.__file__.startswith(sys.argv[1]), vzoom.__file__
from vzoom.kernels.half_it import half_it
from vzoom.kernels.registry import OPS, resolve
from vzoom.kernels.suite import OpRunner, all_checks, example
assert "half_it" in OPS
x = torch.arange(6.0).view(2, 3)
assert half_it(x, 0.5, impl=sys.argv[2]).equal(x / 2)
for check in all_checks(["half_it"]):
    check.body(OpRunner(sys.argv[2], torch.device("cpu")))
arguments = (*example("half_it", torch.device("cpu")), "auto")
torch.library.opcheck(torch.ops.vzoom.half_it.default, arguments, test_utils=("test_schema", "test_faketensor"))
print(resolve("half_it", "auto", "cpu"))
"""


def test_a_new_op_is_found_and_passes_its_checks(tree: Path) -> None:
    run(tree, "-c", CHECK, str(tree), "reference")
    timed = run(tree, "-m", "vzoom.kernels", "bench", "half_it", "--impl", "reference", "--dtype", "float32")
    assert "half_it, 4096 rows of 3584, float32" in timed


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling the new op needs g++")
def test_its_cpp_is_found_and_passes_its_checks(tree: Path) -> None:
    import pybind11

    import vzoom

    csrc = tree / "csrc"
    (csrc / "module.cpp").write_text(MODULE.replace("VERSION", f'"{vzoom.__version__}"'))
    sources = [csrc / "module.cpp", csrc / "tensor_view.cpp", csrc / "cpu" / "half_it.cpp"]
    target = tree / f"_vzoom{sysconfig.get_config_var('EXT_SUFFIX')}"
    includes = [f"-I{sysconfig.get_paths()['include']}", f"-I{pybind11.get_include()}"]
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
    command = ["g++", *flags, *includes, *map(str, sources), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert run(tree, "-c", CHECK, str(tree), "cpu").split()[-1] == "cpu"
