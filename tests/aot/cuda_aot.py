"""nvcc on the CUDA C++ of csrc/cuda, one cubin per file and architecture, and what is in it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from aot.resources import ARCHITECTURES, Resources, inspect_cubin

SOURCES = Path(__file__).resolve().parents[2] / "csrc" / "cuda"


def nvcc_version() -> str | None:
    """nvcc's release, such as "13.0"; None if there is no nvcc on the path."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    text = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    match = re.search(r"release (\d+\.\d+)", text)
    return match.group(1) if match else None


def compile_file(source: Path, architecture: int, cubin: Path) -> None:
    """RuntimeError with nvcc's words if it does not compile."""
    command = [
        "nvcc",
        "-std=c++17",
        "-O3",
        f"-arch=sm_{architecture}",
        "-cubin",
        f"-I{sysconfig.get_paths()['include']}",
    ]
    done = subprocess.run([*command, str(source), "-o", str(cubin)], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"nvcc failed on {source.name} for sm_{architecture}:\n{done.stderr[-4000:]}")


def readable(mangled: str) -> str:
    """_ZN...11join_kernelIfEE... -> join_kernel<float>: the anonymous namespace's name is another in each build."""
    demangled = subprocess.run(["c++filt", mangled], check=True, capture_output=True, text=True).stdout.strip()
    match = re.search(r"(\w+_kernel(?:<.*>)?)\(", demangled)
    assert match is not None, demangled
    return match.group(1).replace("__nv_bfloat16", "bf16").replace("__half", "fp16").replace("vz::gpu::", "")


def cuda_resources(
    architectures: tuple[int, ...] = ARCHITECTURES, files: tuple[str, ...] | None = None
) -> dict[str, dict[str, Resources]]:
    """ "file/kernel<...>" -> "sm_90" -> resources. files: names without .cu; None takes them all."""
    table: dict[str, dict[str, Resources]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        for source in sorted(SOURCES.glob("*.cu")):
            if files is not None and source.stem not in files:
                continue
            for architecture in architectures:
                compile_file(source, architecture, cubin)
                for name, found in inspect_cubin(cubin).items():
                    table.setdefault(f"{source.stem}/{readable(name)}", {})[f"sm_{architecture}"] = found
    return table
