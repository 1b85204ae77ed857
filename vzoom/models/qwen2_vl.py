"""Qwen2-VL: M-RoPE sections in blocks, time first; a tower of layer norms and plain MLPs."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from .base import VisionLanguageModel
from .layers import in_parts
from .tower import VisionTower, project


class Qwen2Tower(VisionTower):
    def normed(self, norm: Any, x: Tensor) -> Tensor:
        return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    def mlp(self, block: Any, x: Tensor) -> Tensor:
        mlp = block.mlp
        return in_parts(lambda x: project(mlp.fc2, mlp.act(project(mlp.fc1, self.normed(block.norm2, x))), add=x), x)

    def merge(self, x: Tensor) -> Tensor:
        merger = self.visual.merger
        x = self.normed(merger.ln_q, x).view(-1, merger.hidden_size)
        return project(merger.mlp[2], merger.mlp[1](project(merger.mlp[0], x)))


class Qwen2VL(VisionLanguageModel):
    model_types = ("qwen2_vl",)
    config_class = "Qwen2VLConfig"
    tower_class = Qwen2Tower

    def rope_axes(self, sections: list[int]) -> list[int]:
        # mrope_section [16, 24, 24]: the first 16 frequencies read time, the next 24 the row, the last 24 the column.
        return [axis for axis, width in enumerate(sections) for _ in range(width)]
