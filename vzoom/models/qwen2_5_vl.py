"""Qwen2.5-VL: Qwen2-VL's language model; a tower of RMS norms and gated MLPs, most layers attending in windows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..kernels.linear import linear
from ..kernels.rms_norm import rms_norm
from .layers import in_parts
from .qwen2_vl import Qwen2Tower, Qwen2VL
from .tower import project, weights


class Qwen25Tower(Qwen2Tower):
    def __init__(self, visual: Any, **placed: Any) -> None:
        super().__init__(visual, **placed)
        if visual.config.hidden_act != "silu":
            raise ValueError(f"this checkpoint's vision hidden_act is {visual.config.hidden_act!r}; vzoom runs silu")
        # A side of a window, in merged patches.
        self.window = visual.window_size // visual.spatial_merge_size // visual.patch_size
        self.whole_layers = frozenset(visual.fullatt_block_indexes)

    def normed(self, norm: Any, x: Tensor) -> Tensor:
        return rms_norm(x, norm.weight.detach(), norm.variance_epsilon)

    def mlp(self, block: Any, x: Tensor) -> Tensor:
        gate, up, down = block.mlp.gate_proj, block.mlp.up_proj, block.mlp.down_proj

        def part(x: Tensor) -> Tensor:
            normed = self.normed(block.norm2, x)
            gate_weight, gate_bias = weights(gate)
            inner = linear(normed, *weights(up), gate_OI=gate_weight, gate_bias_O=gate_bias)
            return project(down, inner, add=x)

        return in_parts(part, x)


class Qwen25VL(Qwen2VL):
    model_types = ("qwen2_5_vl",)
    config_class = "Qwen2_5_VLConfig"
    tower_class = Qwen25Tower
    positions_per_second = 4.0
