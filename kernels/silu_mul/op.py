"""silu_mul: gate <- silu(gate) up, the middle of a gated MLP, in one pass and in place.

    gate[t, f] <- gate[t, f] / (1 + exp(-gate[t, f])) * up[t, f]

Bytes that must move: 3 T F values. Shapes: T rows, F features. On a GPU torch's own kernels are the right ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vzoom import ext

from ..checks import check_dims, check_last_dim_contiguous, check_same_device
from ..library import LIB
from ..registry import resolve
from .reference import silu_mul as _reference

LIB.define("silu_mul(Tensor(a!) gate, Tensor up, str impl) -> ()")


def silu_mul(gate_TF: Tensor, up_TF: Tensor, *, impl: str = "auto") -> Tensor:
    """silu(gate) * up, written over gate_TF and returned. up_TF may not share its memory.

    ValueError where shapes, dtypes or devices do not fit; RuntimeError where a named `impl` is not there.
    """
    torch.ops.vzoom.silu_mul(gate_TF, up_TF, impl)
    return gate_TF


def check(gate: Tensor, up: Tensor) -> None:
    """ValueError where the arguments do not fit together."""
    check_same_device(gate=gate, up=up)
    check_dims(gate=(gate, "TF"), up=(up, "TF"))
    check_last_dim_contiguous(gate=gate, up=up)
    if gate.dtype != up.dtype:
        raise ValueError(f"up is {up.dtype} but gate is {gate.dtype}: they must share one dtype")


def _run(gate: Tensor, up: Tensor, impl: str) -> None:
    if resolve("silu_mul", impl, gate.device.type) == "cpu":  # which checks its arguments itself
        ext.loaded().silu_mul(gate, up)
        return
    check(gate, up)
    _reference(gate, up)


def _fake(gate: Tensor, up: Tensor, impl: str) -> None:
    check(gate, up)


LIB.impl("silu_mul", _run, "CPU")
LIB.impl("silu_mul", _run, "CUDA")
torch.library.register_fake("vzoom::silu_mul", _fake, lib=LIB)
