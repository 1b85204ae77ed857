"""silu_mul: gate <- silu(gate) up, the middle of a gated MLP, in one pass and in place.

    gate[t, f] <- gate[t, f] / (1 + exp(-gate[t, f])) * up[t, f]

Bytes that must move: 3 T F values. Letters: T rows, F features. On a GPU torch's own kernels are the right ones.
"""

from __future__ import annotations

from torch import Tensor

from ..checks import check_last_dim_contiguous, check_one_dtype, check_shapes
from ..declare import declare
from .reference import Arguments
from .reference import silu_mul as _reference


def silu_mul(gate_TF: Tensor, up_TF: Tensor, *, impl: str = "auto") -> Tensor:
    """Multiply silu(gate) by up, in place.

    Args:
        gate_TF: written over.
        up_TF: of gate's dtype. It may not share its memory.
        impl: "auto", "reference" or "cpu".

    Returns:
        gate_TF.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: the named `impl` is not there.
    """
    _op(gate_TF, up_TF, impl)
    return gate_TF


def _check(a: Arguments) -> None:
    check_shapes(a)
    check_last_dim_contiguous(gate=a.gate_TF, up=a.up_TF)
    check_one_dtype(gate=a.gate_TF, up=a.up_TF)


_op = declare(Arguments, _reference, _check, writes=("gate_TF",))
