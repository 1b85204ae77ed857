"""Which packages training needs: asked before the first stage, not after hours of work."""

from __future__ import annotations

from importlib.util import find_spec

from ..config import missing_extra
from .recipes.recipe import Recipe

_ALWAYS = ("trl", "datasets", "pyarrow", "accelerate")


def check_packages(recipe: Recipe) -> None:
    """See that everything is installed that SFT and GRPO by this recipe import.

    Raises:
        ImportError: names a package that is missing, and how to install it.
    """
    uses_lora = recipe.sft.lora is not None or recipe.grpo.lora is not None
    for package in (*_ALWAYS, *(("peft",) if uses_lora else ())):
        if find_spec(package) is None:
            raise missing_extra(package, "train")
