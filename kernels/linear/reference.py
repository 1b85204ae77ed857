"""linear in torch: the truth of the tests, and what runs on a GPU.

Letters: T rows, I inputs, O outputs.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class Arguments(NamedTuple):
    """What every implementation takes, in this order. `op.linear` says what they are."""

    x_TI: Tensor
    weight_OI: Tensor
    bias_O: Tensor | None
    gate_OI: Tensor | None
    gate_bias_O: Tensor | None
    add_TO: Tensor | None
    out_TO: Tensor


def project(
    x_TI: Tensor,
    weight_OI: Tensor,
    bias_O: Tensor | None,
    gate_OI: Tensor | None,
    gate_bias_O: Tensor | None,
    add_TO: Tensor | None,
) -> Tensor:
    """Return what the op writes, [T, O]; the arguments are those of `op.linear`."""
    out = F.linear(x_TI, weight_OI, bias_O)
    if gate_OI is not None:
        out = F.silu(F.linear(x_TI, gate_OI, gate_bias_O)) * out
    return out if add_TO is None else out + add_TO


def linear(a: Arguments) -> None:
    """Project, then copy."""
    a.out_TO.copy_(project(*a[:-1]))
