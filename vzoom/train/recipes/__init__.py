"""Recipes by name. A recipe is a function without arguments; the command line picks one.

Naming the recipes loads nothing, so that `vzoom --help` is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .recipe import Recipe

# name -> what it trains, and on what
RECIPES = {
    "tiny": "the model that vzoom carries, from nothing, on rendered videos; about 1.4 hours of one CPU core",
    "ablation": "the model of docs/results/ablation.md, from nothing, on rendered videos; one CPU core",
    "hermes": "like ablation, in the Hermes calls of LongVT's tool: another protocol, from nothing; one CPU core",
    "qwen2.5-vl-3b-1gpu": "Qwen2.5-VL-3B with LoRA on questions of your own; one GPU of 32 GB",
    "qwen2.5-vl-7b": "Qwen2.5-VL-7B with VideoZoomer's figures on questions of your own; eight GPUs of 80 GB",
}


def recipe_named(name: str) -> Recipe:
    """The recipe of this name.

    Args:
        name: one of `RECIPES`.

    Returns:
        A new recipe; change it with `dataclasses.replace`.

    Raises:
        ValueError: there is no such recipe.
    """
    from . import qwen, tiny

    makers = {
        "tiny": tiny.tiny,
        "ablation": tiny.ablation,
        "hermes": tiny.hermes,
        "qwen2.5-vl-3b-1gpu": qwen.qwen2_5_vl_3b_1gpu,
        "qwen2.5-vl-7b": qwen.qwen2_5_vl_7b,
    }
    if name not in makers:
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(sorted(makers))}")
    return makers[name]()
