"""A recipe's optimisation as the settings of transformers' Trainer, and in which order SFT sees its data."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..recipes.recipe import SFTRecipe


def num_updates(part: SFTRecipe, num_samples: int) -> int:
    """Updates of a run: `epochs` passes over the data, rounded to whole batches, at least one."""
    return max(1, round(part.epochs * num_samples / part.batch_size))


def order(part: SFTRecipe, lengths: np.ndarray, *, seed: int) -> list[int]:
    """Which sample is seen when: one pass after the other, each in a random order of its own; [updates * batch_size].

    Within an update the longest come first, so that the rows of a micro-batch, and the processes' micro-batches, are
    of like lengths. A function of the recipe, the seed and the data alone: not of the number of processes.
    """
    total = num_updates(part, len(lengths)) * part.batch_size
    passes = [
        np.random.default_rng([seed, number]).permutation(len(lengths)) for number in range(-(-total // len(lengths)))
    ]
    drawn = np.concatenate(passes)[:total].reshape(-1, part.batch_size)
    longest_first = np.argsort(-lengths[drawn], axis=1, kind="stable")
    return [int(i) for i in np.take_along_axis(drawn, longest_first, axis=1).ravel()]


def sft_config(part: SFTRecipe, folder: Path, *, seed: int, num_samples: int) -> Any:
    """TRL's SFTConfig. ImportError without trl; ValueError where the processes cannot share a batch."""
    # TRL counts its users by a request to a hub: a training run should make none that nobody asked for.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import torch
        from trl import SFTConfig
    except ImportError as error:
        raise ImportError("training needs trl: pip install 'vzoom[train]'") from error
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    accumulated, left = divmod(part.batch_size, part.micro_batch_size * processes)
    if left:
        raise ValueError(
            f"batch_size {part.batch_size} cannot be shared by {processes} processes in micro-batches of "
            f"{part.micro_batch_size}: make it a multiple of {part.micro_batch_size * processes}"
        )
    updates, optimisation = num_updates(part, num_samples), part.optimisation
    return SFTConfig(
        output_dir=str(folder),
        max_steps=updates,
        per_device_train_batch_size=part.micro_batch_size,
        gradient_accumulation_steps=accumulated,
        average_tokens_across_devices=True,
        learning_rate=optimisation.learning_rate,
        weight_decay=optimisation.weight_decay,
        max_grad_norm=optimisation.max_grad_norm,
        lr_scheduler_type="cosine" if optimisation.schedule == "cosine" else "constant_with_warmup",
        warmup_steps=round(optimisation.warmup * updates),
        logging_steps=1,
        save_strategy="steps",
        save_steps=part.save_every,
        save_total_limit=2,
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),  # accelerate then takes gloo
        gradient_checkpointing=False,  # `load_policy` has switched it on where the recipe wants it
        ddp_find_unused_parameters=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=torch.cuda.is_available(),
        max_length=None,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=["tensorboard"] if importlib.util.find_spec("tensorboard") else [],
        seed=seed,
    )
