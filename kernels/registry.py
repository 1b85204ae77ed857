"""Which implementation of an op runs, and why.

impl is "auto" or one of IMPLS. "auto" takes the first that is there for the device: C++ on the CPU; CUDA C++, then
Triton, on a GPU; the torch reference last. A named implementation that is not there raises.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache

import torch

from vzoom import ext
from vzoom.config import missing_extra

IMPLS = ("reference", "cpu", "triton", "cuda")
_ORDER = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}

# Ops with a Triton file; those with C++ or CUDA C++ are asked of the extension itself.
OPS = ("mrope_append", "paged_attention", "frames_to_patches", "copy_blocks", "splice_move", "merge_states")
TRITON_OPS = OPS
# Ops whose C++ serves the CPU alone: on a GPU they are torch's own kernels, by the reference.
CPU_OPS = ("linear", "rms_norm", "silu_mul")


def missing(op: str, impl: str, device_type: str) -> str | None:
    """Why `impl` of `op` cannot run on `device_type`; None where it can."""
    if impl == "reference":
        return None
    if impl == "cpu":
        if device_type != "cpu":
            return f"C++ runs on CPU tensors, not on {device_type}"
        native = ext.native()
        if native is None:
            return f"no C++: {ext.why_missing()}"
        return None if op in native.cpu_ops else f"_vzoom has no C++ {op}"
    if impl == "cuda":
        native = ext.native()
        if device_type != "cuda":
            return f"CUDA C++ runs on CUDA tensors, not on {device_type}"
        if native is None:
            return f"no CUDA C++: {ext.why_missing()}"
        if op in CPU_OPS:
            return f"{op} has no CUDA C++: torch's own kernel is the right one"
        return None if op in native.cuda_ops else f"_vzoom was built without CUDA C++ for {op} (nvcc was not found)"
    if impl == "triton":
        if op not in TRITON_OPS:
            return f"{op} has no Triton implementation: torch's own kernel is the right one"
        if importlib.util.find_spec("triton") is None:
            return str(missing_extra("triton", "gpu"))
        if device_type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            return f"Triton runs on CUDA tensors, not on {device_type} (TRITON_INTERPRET=1 interprets it)"
        return None
    raise ValueError(f"impl must be auto or one of {', '.join(IMPLS)}, got {impl!r}")


@cache
def resolve(op: str, impl: str, device_type: str) -> str:
    """The implementation that runs. RuntimeError where a named one is not there, ValueError for an unknown name."""
    if impl == "auto":
        order = _ORDER.get(device_type, ("reference",))
        return next(name for name in order if missing(op, name, device_type) is None)
    reason = missing(op, impl, device_type)
    if reason is not None:
        raise RuntimeError(f"{op}: impl={impl!r} is not there: {reason}")
    return impl


def chosen(device_type: str | None = None) -> dict[str, tuple[str, str]]:
    """op -> (what "auto" runs on the device, why). device_type defaults to cuda where torch sees a GPU, else cpu."""
    if device_type is None:
        device_type = "cuda" if torch.cuda.is_available() else "cpu"
    table: dict[str, tuple[str, str]] = {}
    for op in (*OPS, *CPU_OPS):
        impl = resolve(op, "auto", device_type)
        passed = [missing(op, name, device_type) for name in _ORDER.get(device_type, ())]
        reasons = [reason for reason in passed if reason is not None]
        table[op] = (impl, "; ".join(reasons) if impl == "reference" and reasons else f"the fastest on {device_type}")
    return table
