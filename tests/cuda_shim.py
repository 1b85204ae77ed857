"""Builds csrc/shim and the CUDA kernels with g++ into a Python module, and loads it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

CSRC = Path(__file__).resolve().parents[1] / "csrc"
SOURCES = [*sorted((CSRC / "cuda").glob("*.cu")), *sorted((CSRC / "shim").glob("*.cpp")), CSRC / "tensor_view.cpp"]
# -ffp-contract=off: one rounding an operation, so that results do not depend on the machine's FMA.
FLAGS = ["-std=c++17", "-O1", "-g", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-DVZ_SHIM"]
WARNINGS = ["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror"]


def build(folder: Path) -> ModuleType:
    """RuntimeError with the compiler's words where it fails."""
    import pybind11

    compiler = shutil.which("g++")
    assert compiler is not None
    includes = [f"-I{sysconfig.get_paths()['include']}", f"-I{pybind11.get_include()}"]

    def run(*command: str) -> None:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-4000:]}")

    def compile_one(source: Path) -> str:
        target = str(folder / f"{source.name}.o")
        run(compiler, *FLAGS, *WARNINGS, *includes, "-x", "c++", "-c", str(source), "-o", target)
        return target

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = list(pool.map(compile_one, SOURCES))
    library = folder / f"_vzoom_shim{sysconfig.get_config_var('EXT_SUFFIX')}"
    run(compiler, "-shared", *objects, "-o", str(library))
    spec = importlib.util.spec_from_file_location("_vzoom_shim", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
