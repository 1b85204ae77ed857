"""Qwen2-VL: M-RoPE sections in blocks, time first."""

from __future__ import annotations

from .base import VisionLanguageModel


class Qwen2VL(VisionLanguageModel):
    model_types = ("qwen2_vl",)

    def rope_axes(self, sections: list[int]) -> list[int]:
        # mrope_section [16, 24, 24]: the first 16 frequencies read time, the next 24 the row, the last 24 the column.
        return [axis for axis, width in enumerate(sections) for _ in range(width)]
