"""linear in torch: the truth of the tests, and what runs on a GPU.

T rows, K inputs, N outputs.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def linear(
    x_TK: Tensor,
    weight_NK: Tensor,
    bias_N: Tensor | None,
    gate_NK: Tensor | None,
    gate_bias_N: Tensor | None,
    add_TN: Tensor | None,
) -> Tensor:
    out = F.linear(x_TK, weight_NK, bias_N)
    if gate_NK is not None:
        out = F.silu(F.linear(x_TK, gate_NK, gate_bias_N)) * out
    return out if add_TN is None else out + add_TN
