"""Qwen3-VL: interleaved M-RoPE, normalised q and k, DeepStack features after the first decoder layers; a tower with
learned positions, resampled to each image's grid."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from .base import VisionLanguageModel
from .features import Features
from .layers import in_parts
from .tower import VisionTower, project
from .tower_plan import TowerPlan


class Qwen3Tower(VisionTower):
    def __init__(self, visual: Any, **placed: Any) -> None:
        super().__init__(visual, **placed)
        self.positions_side = visual.num_grid_per_side

    def normed(self, norm: Any, x: Tensor) -> Tensor:
        return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    def embed(self, patches: Tensor, plan: TowerPlan) -> Tensor:
        assert plan.taps_T4 is not None
        assert plan.tap_weights_T4 is not None
        learned = self.visual.pos_embed.weight[plan.taps_T4] * plan.tap_weights_T4[:, :, None]
        return super().embed(patches, plan) + learned.sum(1).to(self.dtype)

    def mlp(self, block: Any, x: Tensor) -> Tensor:
        first, second = block.mlp.linear_fc1, block.mlp.linear_fc2
        return in_parts(
            lambda x: project(second, block.mlp.act_fn(project(first, self.normed(block.norm2, x))), add=x), x
        )

    def features(self, x: Tensor, levels: list[Tensor], plan: TowerPlan) -> Features:
        return Features(self._merged(self.visual.merger, x), tuple(levels))

    def level(self, index: int, x: Tensor) -> Tensor | None:
        at = list(self.visual.deepstack_visual_indexes)
        return self._merged(self.visual.deepstack_merger_list[at.index(index)], x) if index in at else None

    def _merged(self, merger: Any, x: Tensor) -> Tensor:
        if merger.use_postshuffle_norm:
            x = self.normed(merger.norm, x.view(-1, merger.hidden_size))
        else:
            x = self.normed(merger.norm, x).view(-1, merger.hidden_size)
        return project(merger.linear_fc2, merger.act_fn(project(merger.linear_fc1, x)))


class Qwen3VL(VisionLanguageModel):
    model_types = ("qwen3_vl",)
    config_class = "Qwen3VLConfig"
    tower_class = Qwen3Tower
    times_videos = True

    def rope_axes(self, sections: list[int]) -> list[int]:
        # mrope_section [24, 20, 20]: frequency i reads the row where i % 3 == 1 and i < 60, the column where
        # i % 3 == 2 and i < 60, else time. (Qwen3-VL report, "interleaved MRoPE".)
        def axis(i: int) -> int:
            return i % 3 if i % 3 and i < 3 * sections[i % 3] else 0

        return [axis(i) for i in range(sum(sections))]
