"""Builds csrc/shim and the CUDA kernels with g++ into a Python module, loads it, and runs checks on it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from vzoom.kernels.frames_to_patches.cuda_impl import frames_to_patches
from vzoom.kernels.frames_to_patches.reference import Arguments as FramesArguments
from vzoom.kernels.paged_attention.cuda_impl import decode
from vzoom.kernels.paged_attention.reference import Arguments as AttentionArguments
from vzoom.kernels.suite import placed

CSRC = Path(__file__).resolve().parents[1] / "csrc"
OPS = tuple(sorted(source.stem for source in (CSRC / "cuda").glob("*.cu")))
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
        # A sanitizer's runtime that is loaded into the tests (`make sanitize`) is not for the compiler.
        env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
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


@dataclass(frozen=True)
class ShimRunner:
    """Runs the CUDA C++ of `native` on CPU tensors. splits: pieces of the context in paged_attention."""

    native: ModuleType
    splits: int = 1

    def put(self, tensor: Tensor) -> Tensor:
        return placed(tensor, tensor.device)

    def put_pages(self, heads_first: Tensor) -> Tensor:
        return placed(heads_first, heads_first.device).transpose(-3, -2)

    def heads_first(self, pages: Tensor) -> Tensor:
        return pages.transpose(-3, -2)

    def run(self, op: str, *arguments: Any) -> None:
        if op == "frames_to_patches":
            frames_to_patches(FramesArguments(*arguments), native=self.native)
        elif op == "paged_attention":
            decode(AttentionArguments(*arguments), native=self.native, splits=self.splits)
        else:
            getattr(self.native, f"cuda_{op}")(*arguments)
