"""rms_norm: rows over their root mean square, in one pass; torch makes six on the CPU.

    out[t, h] = weight x[t, h] / sqrt(mean(x[t, h]^2) + epsilon)

The quotient is rounded to x's dtype before it is weighted, as transformers does.
Bytes that must move: 2 T H D values. Letters: T tokens, H heads (1 for a layer's norm), D features of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_last_dim_contiguous, check_one_dtype, check_shapes
from ..declare import declare
from .reference import Arguments, normed
from .reference import rms_norm as _reference


def rms_norm(x: Tensor, weight_D: Tensor, epsilon: float, *, impl: str = "auto") -> Tensor:
    """Norm each row. No gradient.

    Args:
        x: rows [T, D] or [T, H, D].
        weight_D: what each feature is multiplied by afterwards, in x's dtype.
        epsilon: added to the mean of the squares.
        impl: "auto", "reference" or "cpu".

    Returns:
        A tensor of x's shape and dtype.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: the named `impl` is not there.
    """
    if impl == "auto" and x.device.type != "cpu":
        return normed(x, weight_D, epsilon)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    rows, to = (x, out) if x.ndim == 3 else (x.unsqueeze(1), out.unsqueeze(1))
    _op(rows, weight_D, epsilon, to, impl)
    return out


def _check(a: Arguments) -> None:
    check_shapes(a)
    check_last_dim_contiguous(x=a.x_THD, weight=a.weight_D, out=a.out_THD)
    check_one_dtype(x=a.x_THD, weight=a.weight_D, out=a.out_THD)


_op = declare(Arguments, _reference, _check, writes=("out_THD",))
