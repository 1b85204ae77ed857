"""Qwen3-VL: interleaved M-RoPE, normalised q and k, DeepStack features behind the first decoder layers."""

from __future__ import annotations

from typing import Any

import torch

from .base import Features, VisionLanguageModel


class Qwen3VL(VisionLanguageModel):
    model_types = ("qwen3_vl",)

    def rope_axes(self, sections: list[int]) -> list[int]:
        # mrope_section [24, 20, 20]: frequency i reads the row where i % 3 == 1 and i < 60, the column where
        # i % 3 == 2 and i < 60, else time. (Qwen3-VL report, "interleaved MRoPE".)
        def axis(i: int) -> int:
            return i % 3 if i % 3 and i < 3 * sections[i % 3] else 0

        return [axis(i) for i in range(sum(sections))]

    def project(self, attention: Any, hidden_TC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v = super().project(attention, hidden_TC)
        return attention.q_norm(q), attention.k_norm(k), v

    def features(self, output: Any) -> Features:
        return Features(output.pooler_output, tuple(output.deepstack_features))
