"""The weights of decoder layers, as the forward loop reads them: transformers' own parameters, found once.

A decode step spends microseconds on a layer of a small model, and a module's attributes cost some of them each time.
C hidden size, F features of the MLP, Q = (H + 2 G) D.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.linear import linear
from ..kernels.rms_norm import rms_norm
from .weight_memory import fuse

# The inner tensors of an MLP are wide. So much of their columns at a time (1024 rows of bf16) stays in the cache, keeps
# memory small, and repays oneDNN's packing of the weights for each product.
_COLUMN_BYTES = 2048


@dataclass(frozen=True)
class Layer:
    """One decoder layer. Its tensors are the parameters of transformers' modules, or views that contain them."""

    input_norm_C: Tensor
    qkv_QC: Tensor
    qkv_bias_Q: Tensor | None
    q_norm_D: Tensor | None
    k_norm_D: Tensor | None
    out_CC: Tensor
    out_bias_C: Tensor | None
    post_norm_C: Tensor
    gate_FC: Tensor
    up_FC: Tensor
    down_CF: Tensor

    @classmethod
    def all_of(cls, modules: Sequence[Any]) -> list[Layer]:
        """The layers of transformers' decoder layers `modules`, whose q, k and v become one product."""
        fused = [[fuse(group) for group in qkv_parameters([module])] for module in modules]
        return [
            cls._of(module, qkv[0], qkv[1] if len(qkv) > 1 else None)
            for module, qkv in zip(modules, fused, strict=True)
        ]

    @classmethod
    def _of(cls, module: Any, qkv: Tensor, bias: Tensor | None) -> Layer:
        attention, mlp = module.self_attn, module.mlp
        q_norm, k_norm = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
        return cls(
            input_norm_C=module.input_layernorm.weight.detach(),
            qkv_QC=qkv,
            qkv_bias_Q=bias,
            q_norm_D=None if q_norm is None else q_norm.weight.detach(),
            k_norm_D=None if k_norm is None else k_norm.weight.detach(),
            out_CC=attention.o_proj.weight.detach(),
            out_bias_C=None if attention.o_proj.bias is None else attention.o_proj.bias.detach(),
            post_norm_C=module.post_attention_layernorm.weight.detach(),
            gate_FC=mlp.gate_proj.weight.detach(),
            up_FC=mlp.up_proj.weight.detach(),
            down_CF=mlp.down_proj.weight.detach(),
        )

    def mlp(self, hidden_TC: Tensor, epsilon: float) -> Tensor:
        """hidden + MLP(norm(hidden))."""

        def part(rows_TC: Tensor) -> Tensor:
            normed = rms_norm(rows_TC, self.post_norm_C, epsilon)
            return linear(linear(normed, self.up_FC, gate_OI=self.gate_FC), self.down_CF, add_TO=rows_TC)

        return in_parts(part, hidden_TC)


def qkv_parameters(modules: Iterable[Any]) -> Iterator[list[nn.Parameter]]:
    """The weights, and the biases if there are any, of q, k and v in each of transformers' decoder layers."""
    for module in modules:
        projections = [getattr(module.self_attn, f"{name}_proj") for name in "qkv"]
        yield [p.weight for p in projections]
        if projections[0].bias is not None:
            yield [p.bias for p in projections]


def in_parts(function: Callable[[Tensor], Tensor], rows_TC: Tensor) -> Tensor:
    """function(rows), on the CPU in parts so small that what is computed in between stays in the cache."""
    together = _COLUMN_BYTES // rows_TC.element_size()
    if rows_TC.device.type != "cpu" or len(rows_TC) <= together:
        return function(rows_TC)
    return torch.cat([function(part) for part in rows_TC.split(together)])
