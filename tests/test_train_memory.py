"""The estimate that is printed before a training starts, against parameters counted from public configs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checkpoints import config_of
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

from vzoom.train.common.memory import ModelSizes, estimate
from vzoom.train.common.policy import LORA_MODULES
from vzoom.train.recipes import recipe_named

SIZES = {  # of Qwen/Qwen2.5-VL-…-Instruct
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
    "3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16}
    | {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
}


def public(size: str) -> Any:
    text = SIZES[size]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
    vision |= {"out_hidden_size": text["hidden_size"], "fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112}
    return Qwen2_5_VLConfig(
        text_config=text | {"rope_parameters": rope},
        vision_config=vision,
        tie_word_embeddings=text["tie_word_embeddings"],
    )


@pytest.mark.parametrize(("size", "published"), [("7b", 8_292_166_656), ("3b", 3_754_622_976)])
def test_parameters_are_counted_as_published(size: str, published: int) -> None:
    sizes = ModelSizes.of(public(size))
    assert sizes.language + sizes.vision == published
    assert sizes.kv_width == 128 * SIZES[size]["num_key_value_heads"]


def test_adapters_are_counted_as_peft_makes_them() -> None:
    config = config_of("qwen2_5_vl")
    with torch.device("meta"):
        adapted = get_peft_model(
            AutoModelForImageTextToText.from_config(config), LoraConfig(r=8, target_modules=LORA_MODULES)
        )
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert ModelSizes.of(config).adapters_per_rank * 8 == trained > 0


def test_the_large_recipe_fits_where_it_says() -> None:
    """Fully trained: 4 bytes of weight, 4 of gradient and 8 of Adam a parameter, over eight devices."""
    recipe, sizes = recipe_named("qwen2.5-vl-7b"), ModelSizes.of(public("7b"))
    for part in (recipe.sft, recipe.grpo):
        alone, shared = (estimate(recipe, part, sizes, on_gpu=True, num_shards=n) for n in (1, 8))
        state = ("gradients", "optimizer")
        assert sum(alone.parts[name] for name in state) == 12 * sizes.language
        assert sum(shared.parts[name] for name in state) == pytest.approx(12 * sizes.language / 8)
        assert shared.total < 80e9 < alone.total
        assert shared.parts["engine's weights"] == 2 * 8_292_166_656
    assert "reference" in estimate(recipe, recipe.grpo, sizes, on_gpu=True).parts


def test_the_small_recipe_fits_where_it_says() -> None:
    recipe, sizes = recipe_named("qwen2.5-vl-3b-1gpu"), ModelSizes.of(public("3b"))
    for part in (recipe.sft, recipe.grpo):
        found = estimate(recipe, part, sizes, on_gpu=True)
        assert found.total < 32e9
        assert found.parts["optimizer"] == 8 * 64 * sizes.adapters_per_rank
        assert str(found).startswith(f"{found.stage} will take about {found.total / 1e9:.1f} GB per device: weights")
    kv = estimate(recipe, recipe.grpo, sizes, on_gpu=True).parts["engine's KV"]
    assert kv == recipe.grpo.pool_tokens * 2 * 36 * 256 * 2  # keys and values, layers, width, bytes
