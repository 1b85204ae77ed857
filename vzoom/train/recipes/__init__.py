"""Recipes by name. A recipe is a function; `python -m vzoom.train` and `vzoom school` pick one."""

from __future__ import annotations

from collections.abc import Callable

from . import qwen, tiny
from .recipe import Recipe

RECIPES: dict[str, Callable[[], Recipe]] = {
    "tiny": tiny.tiny,
    "ablation": tiny.ablation,
    "qwen2.5-vl-7b": qwen.qwen2_5_vl_7b,
    "qwen2.5-vl-3b-1gpu": qwen.qwen2_5_vl_3b_1gpu,
}


def recipe_named(name: str) -> Recipe:
    """ValueError where there is none of that name."""
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(sorted(RECIPES))}")
    return RECIPES[name]()
