"""How much of a device's memory a training will take: said before anything is loaded.

Weights, gradients and optimizer are counted exactly. Activations are a model: what a decoder layer of transformers
keeps for its backward pass, of all layers, or of one and every layer's input if they are computed again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..recipes.recipe import GRPORecipe, Recipe, SFTRecipe
from .policy import LORA_MODULES

_GB = 1e9
_HEAD_TOKENS, _HEAD_COLUMNS = 4096, 32768  # of a tile of logits in TRL's loss


@dataclass(frozen=True)
class ModelSizes:
    """Numbers of parameters, and the sizes that activations and the KV cache depend on."""

    language: int
    vision: int
    adapters_per_rank: int  # parameters of LoRA on every projection, for rank 1
    layers: int
    hidden: int
    intermediate: int
    kv_width: int  # of a token's keys in a layer
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> ModelSizes:
        """config: transformers' config of a Qwen-VL model. No weight is made."""
        import torch
        from transformers import AutoModelForImageTextToText

        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
            model.tie_weights()  # transformers 5.0 has not done so yet
        vision = sum(p.numel() for p in model.model.visual.parameters())
        adapted = [
            module.in_features + module.out_features
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and re.fullmatch(LORA_MODULES, name)
        ]
        text = config.text_config
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(
            language=sum(p.numel() for p in model.parameters()) - vision,
            vision=vision,
            adapters_per_rank=sum(adapted),
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            kv_width=text.num_key_value_heads * head_dim,
            vocabulary=text.vocab_size,
        )


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes per device, by what they are for."""

    stage: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / _GB:.1f}" for name, size in self.parts.items())
        return f"{self.stage} will take about {self.total / _GB:.1f} GB per device: {parts}"


def estimate(
    recipe: Recipe, part: SFTRecipe | GRPORecipe, sizes: ModelSizes, *, on_gpu: bool, num_shards: int = 1
) -> MemoryEstimate:
    """Estimate one training at the longest conversation that recipe.zoom allows.

    Args:
        recipe: says how long a conversation may be.
        part: the recipe's sft or grpo.
        sizes: of the checkpoint.
        on_gpu: mixed precision, as the trainers choose it there.
        num_shards: processes that share weights, gradients and optimizer (FSDP2, ZeRO-3); 1 if each holds all.
    """
    narrow = 2 if on_gpu else 4
    if part.lora is not None:
        trained, held = sizes.adapters_per_rank * part.lora.rank, sizes.language * narrow
        weights = held + trained * 4
    else:
        trained = sizes.language + (0 if part.freeze_vision else sizes.vision)
        weights = sizes.language * 4
    tower = sizes.vision * (narrow if part.lora is not None else 4)
    has_muon = part.optimisation.muon_learning_rate is not None
    parts = {
        # A tower whose features are cached is not sharded: every process holds the whole of it.
        "weights": weights // num_shards + tower // (1 if part.cache_features else num_shards),
        "gradients": trained * 4 // num_shards,
        "optimizer": trained * (4 if has_muon else 8) // num_shards,
        "activations": part.micro_batch_size * _activations(recipe, part, sizes, narrow),
        "engine's weights": (sizes.language + sizes.vision) * narrow,
        "engine's KV": _pool_tokens(recipe, part) * 2 * sizes.layers * sizes.kv_width * narrow,
    }
    if isinstance(part, GRPORecipe) and part.kl_weight and part.lora is None:
        parts["reference"] = sizes.language * 4 // num_shards
    return MemoryEstimate("sft" if isinstance(part, SFTRecipe) else "grpo", parts)


def _activations(recipe: Recipe, part: SFTRecipe | GRPORecipe, sizes: ModelSizes, narrow: int) -> int:
    """Of one conversation of max_total_tokens."""
    tokens = recipe.zoom.max_total_tokens
    # Norms, queries, attention's output and residuals; keys and values; gate, up, their product and the activation.
    layer = tokens * (8 * sizes.hidden + 2 * sizes.kv_width + 4 * sizes.intermediate) * narrow
    inputs = sizes.layers * tokens * sizes.hidden * narrow
    head = 2 * 4 * min(tokens, _HEAD_TOKENS) * min(sizes.vocabulary, _HEAD_COLUMNS)
    return (inputs + layer if part.gradient_checkpointing else sizes.layers * layer) + head


def _pool_tokens(recipe: Recipe, part: SFTRecipe | GRPORecipe) -> int:
    if isinstance(part, SFTRecipe):
        return (part.eval_sessions if part.eval_questions else 1) * recipe.zoom.max_total_tokens
    return part.pool_tokens or part.max_sessions * recipe.zoom.max_total_tokens


def estimate_for(recipe: Recipe, part: SFTRecipe | GRPORecipe, base: str, *, on_gpu: bool) -> MemoryEstimate:
    """Estimate one training of a checkpoint under the launcher that started this process. No weight is loaded.

    Args:
        recipe: says how long a conversation may be.
        part: the recipe's sft or grpo.
        base: the checkpoint, a folder or hub id.
        on_gpu: whether it runs on a GPU.
    """
    import os

    from transformers import AutoConfig

    is_sharded = any(os.environ.get(f"ACCELERATE_USE_{kind}") == "true" for kind in ("FSDP", "DEEPSPEED"))
    num_shards = int(os.environ.get("WORLD_SIZE", "1")) if is_sharded else 1
    sizes = ModelSizes.of(AutoConfig.from_pretrained(base))
    return estimate(recipe, part, sizes, on_gpu=on_gpu, num_shards=num_shards)
