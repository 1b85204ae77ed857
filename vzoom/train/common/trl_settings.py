"""A recipe's SFT or GRPO as TRL's settings: what both have in common, and what each adds."""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path
from typing import Any

from ...config import missing_extra
from ..recipes.recipe import GRPORecipe, SFTRecipe


def sft_config(part: SFTRecipe, checkpoints: Path, *, seed: int, num_updates: int) -> Any:
    """TRL's SFTConfig.

    Args:
        part: the recipe's.
        checkpoints: folder of the trainer's checkpoints.
        seed: the recipe's.
        num_updates: of the whole run.

    Raises:
        ImportError: trl is not installed.
        ValueError: the processes cannot share a batch.
    """
    _require_trl()
    import torch
    from trl import SFTConfig

    processes = _num_processes()
    accumulated, left = divmod(part.batch_size, part.micro_batch_size * processes)
    if left:
        raise ValueError(
            f"batch_size {part.batch_size} cannot be shared by {processes} processes in micro-batches of "
            f"{part.micro_batch_size}: make it a multiple of {part.micro_batch_size * processes}"
        )
    return SFTConfig(
        **_shared(part, checkpoints, seed),
        max_steps=num_updates,
        gradient_accumulation_steps=accumulated,
        warmup_steps=round(part.optimisation.warmup * num_updates),
        logging_steps=1,
        save_steps=part.save_every,
        dataloader_pin_memory=torch.cuda.is_available(),
        average_tokens_across_devices=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
    )


def grpo_config(part: GRPORecipe, checkpoints: Path, *, seed: int) -> Any:
    """TRL's GRPOConfig.

    Args:
        part: the recipe's.
        checkpoints: folder of the trainer's checkpoints.
        seed: the recipe's.

    Raises:
        ImportError: trl is not installed.
        ValueError: a step's rollouts cannot be split in updates, micro-batches and processes.
    """
    _require_trl()
    from trl import GRPOConfig

    rollouts = part.questions_per_step * part.num_rollouts
    processes = _num_processes()
    accumulated, left = divmod(rollouts, part.updates_per_step * part.micro_batch_size * processes)
    if left:
        raise ValueError(
            f"{rollouts} rollouts per step cannot be split in {part.updates_per_step} updates of micro-batches of "
            f"{part.micro_batch_size} on {processes} processes: change questions_per_step, num_rollouts or "
            "micro_batch_size"
        )
    num_updates = part.steps * part.updates_per_step
    return GRPOConfig(
        **_shared(part, checkpoints, seed),
        max_steps=num_updates,
        gradient_accumulation_steps=accumulated,
        steps_per_generation=part.updates_per_step * accumulated,
        num_generations=part.num_rollouts,
        temperature=part.temperature,
        loss_type="dapo",
        beta=0.0,  # `run_grpo` sets it after TRL would have loaded a reference model of its own
        use_bias_correction_kl=False,  # the k3 estimate as it is, VideoZoomer's
        epsilon=part.clip.low,
        epsilon_high=part.clip.high,
        entropy_coef=part.entropy_weight,
        warmup_steps=math.ceil(part.optimisation.warmup * num_updates),
        logging_steps=part.updates_per_step,
        save_steps=part.save_every * part.updates_per_step,
        dataloader_pin_memory=False,  # TRL's data are numbers of questions
        disable_dropout=True,
        shuffle_dataset=False,
        ignore_data_skip=True,  # which questions come next, `GRPOProgress` says
    )


def _shared(part: SFTRecipe | GRPORecipe, checkpoints: Path, seed: int) -> dict[str, Any]:
    """What SFT and GRPO have in common."""
    import torch

    optimisation = part.optimisation
    return {
        "output_dir": str(checkpoints),
        "per_device_train_batch_size": part.micro_batch_size,
        "learning_rate": optimisation.learning_rate,
        "weight_decay": optimisation.weight_decay,
        "max_grad_norm": optimisation.max_grad_norm,
        "lr_scheduler_type": "cosine" if optimisation.schedule == "cosine" else "constant_with_warmup",
        "save_strategy": "steps",
        "save_total_limit": 2,
        "bf16": torch.cuda.is_available(),
        "use_cpu": not torch.cuda.is_available(),  # accelerate then takes gloo
        "gradient_checkpointing": False,  # `load_policy` has switched it on if the recipe wants it
        "ddp_find_unused_parameters": False,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": ["tensorboard"] if importlib.util.find_spec("tensorboard") else [],
        "seed": seed,
    }


def _num_processes() -> int:
    """As the launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _require_trl() -> None:
    # TRL counts its users by a request to a hub: a training run should make none that nobody asked for.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if importlib.util.find_spec("trl") is None:
        raise missing_extra("trl", "train")
