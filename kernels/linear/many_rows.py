"""linear on the CPU for many rows: oneDNN's matrix product, then our gate.

torch sends float32 to MKL, which reaches 0.85 of what oneDNN's does here (Zen 4, 92 against 104 GFLOP/s); bf16 is
oneDNN's either way. Weights stay as they are: oneDNN packs them in each call, which 512 rows repay.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..silu_mul import silu_mul

# oneDNN makes and keeps code and scratch memory for each number of rows that it sees, up to a thousand of them:
# hundreds of MiB for conversations of all lengths. Rows are filled up to a multiple of this, so that it sees few.
_ROWS = 64


@cache
def _onednn() -> Any:
    """oneDNN's product as the inductor calls it, or None if torch was built without it."""
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def product(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, add_TO: Tensor | None = None) -> Tensor:
    """Multiply and add: x W^T + b + add.

    Args:
        x_TI: the rows.
        weight_OI: W.
        bias_O: b.
        add_TO: what is added.

    Returns:
        [T, O].
    """
    onednn = _onednn()
    if onednn is None or x_TI.dtype == torch.float16:
        out = F.linear(x_TI, weight_OI, bias_O)
        return out if add_TO is None else out.add_(add_TO)
    rows = len(x_TI)
    if rows % _ROWS:
        x_TI = F.pad(x_TI, (0, 0, 0, -rows % _ROWS))
    elif add_TO is not None:
        return onednn.binary(x_TI, add_TO, weight_OI, bias_O, "add")
    out = onednn(x_TI, weight_OI, bias_O, "none", [], "")[:rows]
    return out if add_TO is None else out.add_(add_TO)


def linear(
    x_TI: Tensor,
    weight_OI: Tensor,
    bias_O: Tensor | None,
    gate_OI: Tensor | None,
    gate_bias_O: Tensor | None,
    add_TO: Tensor | None,
) -> Tensor:
    """Run the op for many rows and return what it makes, [T, O]; the arguments are those of `op.linear`."""
    if gate_OI is None:
        return product(x_TI, weight_OI, bias_O, add_TO)
    out = silu_mul(product(x_TI, gate_OI, gate_bias_O), product(x_TI, weight_OI, bias_O))
    return out if add_TO is None else out.add_(add_TO)
