"""linear: a projection, a gated one, or one that adds to the residual stream.

    out[t] = g[t] (W x[t] + b) + add[t]        g = silu(Wg x[t] + bg), or 1 where there is no gate

A decode step multiplies one row a session by every weight of the model, so it is bound by reading them: torch's own
product reads 7 to 10 GB/s of the 20 that one core can. The C++ reads each weight once for up to 16 rows, straight from
the checkpoint's layout, and sums in float32. Many rows are bound by arithmetic: `many_rows.py`.
Bytes that must move: N K weights (twice with a gate); FLOPs: 2 T N K (twice with a gate).
Shapes: T rows, K inputs, N outputs. On a GPU torch's own kernels are the right ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vzoom import ext

from ..checks import check_dims, check_last_dim_contiguous, check_same_device
from ..library import LIB
from ..registry import resolve
from .many_rows import linear as _many_rows
from .reference import linear as _reference

FEW_ROWS = 16  # up to here reading the weights is the work

LIB.define(
    "linear(Tensor x, Tensor weight, Tensor? bias, Tensor? gate, Tensor? gate_bias, Tensor? add, Tensor(a!) out, "
    "str impl) -> ()"
)


def linear(
    x_TK: Tensor,
    weight_NK: Tensor,
    bias_N: Tensor | None = None,
    *,
    gate_NK: Tensor | None = None,
    gate_bias_N: Tensor | None = None,
    add_TN: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """x W^T + b, times silu(x Wg^T + bg) where gate_NK is given, plus add_TN: [T, N] in x's dtype, rounded once.

    "auto" on the CPU runs the C++ for up to FEW_ROWS rows and oneDNN above. No gradient.
    ValueError where shapes, dtypes or devices do not fit; RuntimeError where a named `impl` is not there.
    """
    if impl == "auto":
        if x_TK.device.type != "cpu":
            return _reference(x_TK, weight_NK, bias_N, gate_NK, gate_bias_N, add_TN)
        if x_TK.shape[0] > FEW_ROWS:
            return _many_rows(x_TK, weight_NK, bias_N, gate_NK, gate_bias_N, add_TN)
    out = x_TK.new_empty(x_TK.shape[0], weight_NK.shape[0])
    torch.ops.vzoom.linear(x_TK, weight_NK, bias_N, gate_NK, gate_bias_N, add_TN, out, impl)
    return out


def check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    gate_bias: Tensor | None,
    add: Tensor | None,
    out: Tensor,
) -> None:
    """ValueError where the arguments do not fit together."""
    optional = {"bias": (bias, "N"), "gate": (gate, "NK"), "gate_bias": (gate_bias, "N"), "add": (add, "TN")}
    given = {name: (tensor, letters) for name, (tensor, letters) in optional.items() if tensor is not None}
    every = {"x": (x, "TK"), "weight": (weight, "NK"), **given, "out": (out, "TN")}
    tensors = {name: tensor for name, (tensor, _) in every.items()}
    check_same_device(**tensors)
    check_dims(**every)
    check_last_dim_contiguous(**tensors)
    if gate_bias is not None and gate is None:
        raise ValueError("gate_bias is given, but no gate")
    for name, tensor in tensors.items():
        if tensor.dtype != x.dtype:
            raise ValueError(f"{name} is {tensor.dtype} but x is {x.dtype}: they must share one dtype")


def _run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    gate_bias: Tensor | None,
    add: Tensor | None,
    out: Tensor,
    impl: str,
) -> None:
    if resolve("linear", impl, x.device.type) == "cpu":  # which checks its arguments itself
        ext.loaded().linear(x, weight, bias, gate, gate_bias, add, out)
        return
    check(x, weight, bias, gate, gate_bias, add, out)
    out.copy_(_reference(x, weight, bias, gate, gate_bias, add))


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    gate_bias: Tensor | None,
    add: Tensor | None,
    out: Tensor,
    impl: str,
) -> None:
    check(x, weight, bias, gate, gate_bias, add, out)


LIB.impl("linear", _run, "CPU")
LIB.impl("linear", _run, "CUDA")
torch.library.register_fake("vzoom::linear", _fake, lib=LIB)
