"""Which ops there are, which implementation of an op runs, and why.

An op is a folder with an `op.py`. `impl` is "auto" or one of IMPLS. "auto" takes the first that is there for the
device: C++ on the CPU; CUDA C++, then Triton, on a GPU; the torch reference last. A named implementation that is not
there raises.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path

import torch

from vzoom.config import missing_extra

from . import extension

FOLDER = Path(__file__).parent
IMPLS = ("reference", "cpu", "triton", "cuda")
_ORDER = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}


@cache
def has_file(op: str, impl: str) -> bool:
    """Say whether the op's folder holds a file for this implementation."""
    return (FOLDER / op / f"{impl}_impl.py").exists()


OPS = tuple(sorted(path.parent.name for path in FOLDER.glob("*/op.py")))
# Ops with implementations of our own for a GPU. For the others torch's own kernels are the right ones there.
GPU_OPS = tuple(op for op in OPS if has_file(op, "triton"))


def missing(op: str, impl: str, device_type: str) -> str | None:
    """Say why an implementation cannot run.

    Args:
        op: one of OPS.
        impl: one of IMPLS.
        device_type: "cpu" or "cuda".

    Returns:
        The reason, or None if it can run.

    Raises:
        ValueError: no implementation has that name.
    """
    if impl == "reference":
        return None
    if impl == "cpu":
        if device_type != "cpu":
            return f"C++ runs on CPU tensors, not on {device_type}"
        native = extension.native()
        if native is None:
            return f"no C++: {extension.why_missing()}"
        return None if op in native.cpu_ops else f"_vzoom has no C++ {op}"
    if impl == "cuda":
        native = extension.native()
        if device_type != "cuda":
            return f"CUDA C++ runs on CUDA tensors, not on {device_type}"
        if native is None:
            return f"no CUDA C++: {extension.why_missing()}"
        if op in native.cuda_ops:
            return None
        if op not in GPU_OPS:
            return f"{op} has no CUDA C++: torch's own kernel is the right one"
        if native.cuda_ops:
            return f"_vzoom has no CUDA C++ {op}"
        return f"_vzoom was built without CUDA C++ for {op} (nvcc was not found)"
    if impl == "triton":
        if not has_file(op, "triton"):
            return f"{op} has no Triton implementation: torch's own kernel is the right one"
        if importlib.util.find_spec("triton") is None:
            return str(missing_extra("triton", "gpu"))
        if device_type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            return f"Triton runs on CUDA tensors, not on {device_type} (TRITON_INTERPRET=1 interprets it)"
        return None
    raise ValueError(f"impl must be auto or one of {', '.join(IMPLS)}, got {impl!r}")


@cache
def resolve(op: str, impl: str, device_type: str) -> str:
    """Choose the implementation that runs.

    Args:
        op: one of OPS.
        impl: "auto" or one of IMPLS.
        device_type: "cpu" or "cuda".

    Returns:
        One of IMPLS.

    Raises:
        RuntimeError: a named implementation is not there.
        ValueError: no implementation has that name.
    """
    if impl == "auto":
        order = _ORDER.get(device_type, ("reference",))
        return next(name for name in order if missing(op, name, device_type) is None)
    reason = missing(op, impl, device_type)
    if reason is not None:
        raise RuntimeError(f"{op}: impl={impl!r} is not there: {reason}")
    return impl


def chosen(device_type: str | None = None) -> dict[str, tuple[str, str]]:
    """Say what "auto" runs for each op.

    Args:
        device_type: "cpu" or "cuda"; None takes cuda if torch sees a GPU, else cpu.

    Returns:
        op -> (implementation, why).
    """
    if device_type is None:
        device_type = "cuda" if torch.cuda.is_available() else "cpu"
    table: dict[str, tuple[str, str]] = {}
    for op in OPS:
        impl = resolve(op, "auto", device_type)
        passed = [missing(op, name, device_type) for name in _ORDER.get(device_type, ())]
        reasons = [reason for reason in passed if reason is not None]
        table[op] = (impl, "; ".join(reasons) if impl == "reference" and reasons else f"the fastest on {device_type}")
    return table
