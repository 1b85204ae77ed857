"""rms_norm: rows over their root mean square, in one pass where torch makes six on the CPU.

    out[t, h] = weight x[t, h] / sqrt(mean(x[t, h]^2) + epsilon)

The quotient is rounded to x's dtype before it is weighted, as transformers does.
Bytes that must move: 2 T H D values. Shapes: T tokens, H heads (1 for a layer's norm), D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vzoom import ext

from ..checks import check_dims, check_last_dim_contiguous, check_same_device
from ..library import LIB
from ..registry import resolve
from .reference import rms_norm as _reference

LIB.define("rms_norm(Tensor x, Tensor weight, float epsilon, Tensor(a!) out, str impl) -> ()")


def rms_norm(x: Tensor, weight_D: Tensor, epsilon: float, *, impl: str = "auto") -> Tensor:
    """The norm of each row of x [T, D] or [T, H, D], in x's dtype and shape. No gradient.

    ValueError where shapes, dtypes or devices do not fit; RuntimeError where a named `impl` is not there.
    """
    if impl == "auto" and x.device.type != "cpu":
        return _reference(x, weight_D, epsilon)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    rows, to = (x, out) if x.ndim == 3 else (x.unsqueeze(1), out.unsqueeze(1))
    torch.ops.vzoom.rms_norm(rows, weight_D, epsilon, to, impl)
    return out


def check(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """ValueError where the arguments do not fit together."""
    check_same_device(x=x, weight=weight, out=out)
    check_dims(x=(x, "THD"), weight=(weight, "D"), out=(out, "THD"))
    check_last_dim_contiguous(x=x, weight=weight, out=out)
    for name, tensor in (("weight", weight), ("out", out)):
        if tensor.dtype != x.dtype:
            raise ValueError(f"{name} is {tensor.dtype} but x is {x.dtype}: they must share one dtype")


def _run(x: Tensor, weight: Tensor, epsilon: float, out: Tensor, impl: str) -> None:
    if resolve("rms_norm", impl, x.device.type) == "cpu":  # which checks its arguments itself
        ext.loaded().rms_norm(x, weight, epsilon, out)
        return
    check(x, weight, out)
    out.copy_(_reference(x, weight, epsilon))


def _fake(x: Tensor, weight: Tensor, epsilon: float, out: Tensor, impl: str) -> None:
    check(x, weight, out)


LIB.impl("rms_norm", _run, "CPU")
LIB.impl("rms_norm", _run, "CUDA")
torch.library.register_fake("vzoom::rms_norm", _fake, lib=LIB)
