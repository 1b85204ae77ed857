"""What SFT and GRPO do alike before they train: records, held-out questions, models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...data import Record, read, reference_of
from ...models import load_checkpoint
from ..recipes.recipe import GRPORecipe, Recipe, SFTRecipe
from ..rl.rollout import Sampler
from .policy import Policy, load_policy

Data = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Sequence[Record]


def records_of(data: Data, purpose: str) -> list[Record]:
    """Records, or those of a folder or folders. ValueError where there are none for `purpose`."""
    if isinstance(data, str | os.PathLike):
        data = [data]
    records: list[Record] = []
    for one in data:
        records += [one] if isinstance(one, Record) else list(read(one))
    if not records:
        raise ValueError(f"there are no {purpose}")
    return records


def questions_of(data: Data, purpose: str, *, count: int | None = None) -> list[Record]:
    """The first `count` of them, all to be rewarded. ValueError also where one has no reference answer."""
    records = records_of(data, purpose)[:count]
    for record in records:
        reference_of(record)
    return records


def held_out_of(data: Data | None, count: int) -> list[Record]:
    """The questions that choose the best checkpoint."""
    return [] if data is None else questions_of(data, "held-out questions", count=count)


def models_of(
    recipe: Recipe,
    part: SFTRecipe | GRPORecipe,
    base: str,
    args: Any,
    out: Path,
    *,
    max_sessions: int,
    pool_tokens: int | None = None,
) -> tuple[Policy, Sampler]:
    """The policy, and the engine that asks it. What one decodes and encodes the other need not. args: the trainer's."""
    import torch

    on_gpu = args.device.type == "cuda"
    checkpoint = load_checkpoint(base, device=str(args.device))
    sampler = Sampler(checkpoint, recipe.zoom, max_sessions=max_sessions, pool_tokens=pool_tokens)
    policy = load_policy(
        base,
        part,
        device=args.device,
        # Adapters are kept in float32 by peft; all weights in training must be, under mixed precision.
        dtype=torch.bfloat16 if on_gpu and part.lora else torch.float32,
        seed=recipe.seed,
        clip_cache=sampler.clip_cache,
        feature_cache=sampler.feature_cache,
        feature_file=out / f"features-{args.process_index}" if part.cache_features and on_gpu else None,
    )
    return policy, sampler
