"""linear: a projection, a gated one, or one that adds to the residual stream.

    out[t] = g[t] (W x[t] + b) + add[t]        g = silu(Wg x[t] + bg), or 1 if there is no gate

A decode step multiplies one row per session by every weight of the model, so it is bound by reading them: torch's own
product reads 7 to 10 GB/s of the 20 that one core can. The C++ reads each weight once for up to 16 rows, straight from
the checkpoint's layout, and sums in float32. Many rows are bound by arithmetic: `many_rows.py`.
Bytes that must move: I O weights (twice with a gate); FLOPs: 2 T I O (twice with a gate).
Letters: T rows, I inputs, O outputs. On a GPU torch's own kernels are the right ones.
"""

from __future__ import annotations

from torch import Tensor

from ..checks import check_last_dim_contiguous, check_one_dtype, check_shapes
from ..declare import declare, plain_name
from .many_rows import linear as _many_rows
from .reference import Arguments, project
from .reference import linear as _reference

FEW_ROWS = 16  # up to here reading the weights is the work


def linear(
    x_TI: Tensor,
    weight_OI: Tensor,
    bias_O: Tensor | None = None,
    *,
    gate_OI: Tensor | None = None,
    gate_bias_O: Tensor | None = None,
    add_TO: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """Project rows: (x W^T + b), times silu(x Wg^T + bg), plus what is added; rounded once. No gradient.

    Args:
        x_TI: the rows. All tensors have their dtype.
        weight_OI: W.
        bias_O: b.
        gate_OI: Wg, if the projection is gated.
        gate_bias_O: bg.
        add_TO: what is added to the result.
        impl: "auto", "reference" or "cpu". On the CPU "auto" runs the C++ for up to FEW_ROWS rows and oneDNN above.

    Returns:
        [T, O].

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: the named `impl` is not there.
    """
    if impl == "auto":
        if x_TI.device.type != "cpu":
            return project(x_TI, weight_OI, bias_O, gate_OI, gate_bias_O, add_TO)
        if x_TI.shape[0] > FEW_ROWS:
            return _many_rows(x_TI, weight_OI, bias_O, gate_OI, gate_bias_O, add_TO)
    out = x_TI.new_empty(x_TI.shape[0], weight_OI.shape[0])
    _op(x_TI, weight_OI, bias_O, gate_OI, gate_bias_O, add_TO, out, impl)
    return out


def _check(a: Arguments) -> None:
    check_shapes(a)
    tensors = {plain_name(field): tensor for field, tensor in a._asdict().items()}
    check_last_dim_contiguous(**tensors)
    check_one_dtype(**tensors)
    if a.gate_bias_O is not None and a.gate_OI is None:
        raise ValueError("gate_bias is given, but no gate")


_op = declare(Arguments, _reference, _check, writes=("out_TO",))
