"""Qwen2.5-VL: the language model is Qwen2-VL's; its window attention lives in the vision tower of transformers."""

from __future__ import annotations

from .qwen2_vl import Qwen2VL


class Qwen25VL(Qwen2VL):
    model_types = ("qwen2_5_vl",)
