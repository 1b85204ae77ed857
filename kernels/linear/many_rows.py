"""linear on the CPU for many rows: oneDNN's matrix product, then our gate.

torch sends float32 to MKL, which reaches 0.85 of what oneDNN's does here (Zen 4, 92 against 104 GFLOP/s); bf16 is
oneDNN's either way. Weights stay as they are: oneDNN packs them for each call, which 512 rows repay.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..silu_mul.op import silu_mul

# oneDNN makes and keeps code and scratch memory for each number of rows that it sees, up to a thousand of them:
# hundreds of MiB for conversations of all lengths. Rows are filled up to a multiple of this, so that it sees few.
_ROWS = 64


@cache
def _onednn() -> Any:
    """oneDNN's product as the inductor calls it, or None in a torch that was built without it."""
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def product(x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None, add_TN: Tensor | None = None) -> Tensor:
    """x W^T + b + add, [T, N]."""
    onednn = _onednn()
    if onednn is None or x_TK.dtype == torch.float16:
        out = F.linear(x_TK, weight_NK, bias_N)
        return out if add_TN is None else out.add_(add_TN)
    rows = len(x_TK)
    if rows % _ROWS:
        x_TK = F.pad(x_TK, (0, 0, 0, -rows % _ROWS))
    elif add_TN is not None:
        return onednn.binary(x_TK, add_TN, weight_NK, bias_N, "add")
    out = onednn(x_TK, weight_NK, bias_N, "none", [], "")[:rows]
    return out if add_TN is None else out.add_(add_TN)


def linear(
    x_TK: Tensor,
    weight_NK: Tensor,
    bias_N: Tensor | None,
    gate_NK: Tensor | None,
    gate_bias_N: Tensor | None,
    add_TN: Tensor | None,
) -> Tensor:
    if gate_NK is None:
        return product(x_TK, weight_NK, bias_N, add_TN)
    out = silu_mul(product(x_TK, gate_NK, gate_bias_N), product(x_TK, weight_NK, bias_N))
    return out if add_TN is None else out.add_(add_TN)
