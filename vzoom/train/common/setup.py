"""What SFT and GRPO do alike before they train: records, held-out questions, models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...data import Record, read, reference_of
from ...models import check_trainable, load_checkpoint
from ..recipes.recipe import GRPORecipe, Recipe, SFTRecipe
from .policy import PolicyModel, load_policy
from .rollout_engine import RolloutEngine

Data = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Sequence[Record]
"""Records, or a folder or folders of them."""


def records_of(data: Data, purpose: str) -> list[Record]:
    """Read records.

    Args:
        data: records, or a folder or folders of them.
        purpose: names them in the error.

    Raises:
        ValueError: there are none.
    """
    if isinstance(data, str | os.PathLike):
        data = [data]
    records: list[Record] = []
    for one in data:
        records += [one] if isinstance(one, Record) else list(read(one))
    if not records:
        raise ValueError(f"there are no {purpose}")
    return records


def questions_of(data: Data, purpose: str, *, count: int | None = None) -> list[Record]:
    """Read the first `count` questions, all of which can be rewarded.

    Raises:
        ValueError: there are none, or one has no reference answer.
    """
    records = records_of(data, purpose)[:count]
    for record in records:
        reference_of(record)
    return records


def held_out_questions(data: Data | None, count: int) -> list[Record]:
    """Read the questions that choose the best model; none without data."""
    return [] if data is None else questions_of(data, "held-out questions", count=count)


def load_models(
    recipe: Recipe,
    part: SFTRecipe | GRPORecipe,
    base: str,
    args: Any,
    out: Path,
    *,
    max_sessions: int,
    pool_tokens: int | None = None,
) -> tuple[PolicyModel, RolloutEngine]:
    """Load the model to train, and an engine with a copy of it. What one decodes and encodes, the other need not.

    Args:
        recipe: says how conversations are held.
        part: its sft or grpo.
        base: the checkpoint, a folder or hub id.
        args: the trainer's settings.
        out: the run's folder.
        max_sessions, pool_tokens: see `RolloutEngine`.

    Raises:
        ValueError: the base is quantised or has an adapter, or what `load_checkpoint` and `load_policy` raise.
    """
    import torch

    check_trainable(base)
    on_gpu = args.device.type == "cuda"
    # On the CPU the weights in training are float32, and so is what they are copied into and saved from.
    checkpoint = load_checkpoint(
        base, device=str(args.device), dtype="auto" if on_gpu else "float32", protocol=recipe.zoom.protocol
    )
    engine = RolloutEngine(checkpoint, recipe.zoom, max_sessions=max_sessions, pool_tokens=pool_tokens)
    policy = load_policy(
        base,
        part,
        device=args.device,
        # Adapters are kept in float32 by peft; all weights in training must be, under mixed precision.
        dtype=torch.bfloat16 if on_gpu and part.lora else torch.float32,
        seed=recipe.seed,
        clip_cache=engine.clip_cache,
        feature_cache=engine.feature_cache,
        feature_file=out / f"features-{args.process_index}" if part.cache_features and on_gpu else None,
    )
    return policy, engine
