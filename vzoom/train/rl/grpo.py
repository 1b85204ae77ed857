"""`run_grpo`: reinforcement learning of a policy that zooms. Rollouts by our engine, the loss by TRL (`seam.py`).

A step rolls out questions_per_step groups (`steps.py`) and uses them for updates_per_step updates. Every eval_every
steps held-out questions are answered greedily; the best model by their reward is what the folder holds in the end.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ...eval import judge_for
from ...protocol import Judge
from ..common.callbacks import keep_last, watch
from ..common.dist import Team
from ..common.optim import make_optimizer
from ..common.policy import Policy, load_policy
from ..common.setup import Data, held_out_of, models_of, questions_of
from ..common.training_folder import TrainingFolder
from ..common.weight_sync import bare
from ..recipes.recipe import GRPORecipe, Recipe
from .progress import Progress
from .steps import Collapsed, Steps
from .trl_adapter import no_reward, prepared, trainer_class


def run_grpo(
    recipe: Recipe,
    *,
    base: str | os.PathLike[str],
    questions: Data,
    out: str | os.PathLike[str],
    resume: Literal["auto", "never"] = "auto",
    eval_questions: Data | None = None,
    judge: Judge | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Train `base` (folder or hub id) on `questions` (records, or their folders). Returns `out`, for `vzoom.load`.

    recipe.zoom is how every conversation is held. eval_questions: held out, for the best checkpoint; without them the
    last is kept. judge: for questions without options; None takes it from the environment where it is needed.
    resume "auto" goes on from the newest whole checkpoint in `out`, "never" begins anew. Under `accelerate launch`
    every process calls it. Ends early where the policy collapses: out/grpo.json says why. ValueError for a recipe, a
    base or questions that do not fit, ParityError where sampler and trainer do not agree.
    """
    out, base, part = Path(out), os.fspath(base), recipe.grpo
    records = questions_of(questions, "questions to roll out")
    held_out = held_out_of(eval_questions, part.eval_questions)
    judge = judge or judge_for((*records, *held_out))
    made = trainer_class()
    args = _arguments(recipe, out / "checkpoints")
    team = Team(args.process_index, args.world_size)
    identity = {"recipe": repr((part, recipe.zoom, recipe.seed)), "base": base}
    folder = TrainingFolder(out, team, identity=identity, unit="step", say=say)
    held = folder.begin(resume, of="recipe or base")

    policy, sampler = models_of(
        recipe, part, base, args, out, max_sessions=part.max_sessions, pool_tokens=part.pool_tokens
    )
    steps = Steps(recipe, policy, sampler, records, team=team, judge=judge)
    if held is not None:
        steps.progress = Progress.from_json(held[1]["progress"])
        folder.say(f"going on behind step {steps.progress.step} of {part.steps}")
    trainer = made(
        model=policy.model,
        reward_funcs=no_reward,
        args=args,
        train_dataset=_numbers(part),
        processing_class=policy.tokenizer,
        optimizers=(_optimizer(policy, part), None),
    )
    trainer.steps = steps
    _give_reference(trainer, policy, part)
    watch(trainer, steps, held_out, folder)
    stopped = None
    try:
        trainer.train(resume_from_checkpoint=None if held is None else str(held[0]))
    except Collapsed as problem:
        stopped = str(problem)
        folder.say(f"stopped at step {steps.progress.step}: {stopped}")
    finally:
        sampler.close()
    if not held_out:
        keep_last(steps, policy.model, folder)
    assert steps.progress.best is not None
    folder.finish(trainer, "grpo.json", done=steps.progress.step, best=steps.progress.best, stopped=stopped)
    return out


def _arguments(recipe: Recipe, checkpoints: Path) -> Any:
    """The recipe as TRL's settings."""
    import torch
    from trl import GRPOConfig

    part = recipe.grpo
    places = part.questions_per_step * part.num_rollouts
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if places % (part.updates_per_step * part.micro_batch_size * processes):
        raise ValueError(
            f"{places} rollouts a step cannot be split in {part.updates_per_step} updates of micro-batches of "
            f"{part.micro_batch_size} on {processes} processes: change questions_per_step, num_rollouts or "
            "micro_batch_size"
        )
    accumulated = places // (part.updates_per_step * part.micro_batch_size * processes)
    return GRPOConfig(
        output_dir=str(checkpoints),
        max_steps=part.steps * part.updates_per_step,
        per_device_train_batch_size=part.micro_batch_size,
        gradient_accumulation_steps=accumulated,
        steps_per_generation=part.updates_per_step * accumulated,
        num_generations=part.num_rollouts,
        temperature=part.temperature,
        loss_type="dapo",
        beta=0.0,  # see `_give_reference`
        use_bias_correction_kl=False,  # the k3 estimate as it is, VideoZoomer's
        epsilon=part.clip.low,
        epsilon_high=part.clip.high,
        entropy_coef=part.entropy_weight,
        learning_rate=part.optimisation.learning_rate,
        weight_decay=part.optimisation.weight_decay,
        max_grad_norm=part.optimisation.max_grad_norm,
        lr_scheduler_type="cosine" if part.optimisation.schedule == "cosine" else "constant_with_warmup",
        warmup_steps=part.optimisation.warmup,
        logging_steps=part.updates_per_step,
        save_steps=part.save_every * part.updates_per_step,
        save_total_limit=2,
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),  # accelerate then takes gloo
        dataloader_pin_memory=False,
        gradient_checkpointing=False,  # `load_policy` has switched it on where the recipe wants it
        ddp_find_unused_parameters=False,
        disable_dropout=True,
        shuffle_dataset=False,
        ignore_data_skip=True,  # what comes next is in `Progress`
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=["tensorboard"] if importlib.util.find_spec("tensorboard") else [],
        seed=recipe.seed,
    )


def _numbers(part: GRPORecipe) -> Any:
    """TRL's data set: one pass over it is one step. What is asked, `Steps` decides."""
    from datasets import Dataset

    return Dataset.from_dict({"prompt": [str(i) for i in range(part.questions_per_step)]})


def _optimizer(policy: Policy, part: GRPORecipe) -> Any:
    """None: AdamW as the Trainer makes it, over shards where weights are sharded."""
    return None if part.optimisation.muon_learning_rate is None else make_optimizer(policy.model, part.optimisation)


def _give_reference(trainer: Any, policy: Policy, part: GRPORecipe) -> None:
    """The policy before training: without its adapters, or a frozen copy of the base."""
    if part.kl_weight == 0:
        return
    trainer.beta = part.kl_weight  # told later, as TRL would load a copy of its own, which knows no features
    frozen = None
    if not part.lora:
        model = load_policy(
            policy.base,
            replace(part, gradient_checkpointing=False),
            device=trainer.args.device,
            dtype=next(policy.model.parameters()).dtype,
        ).model
        frozen = prepared(trainer, model.requires_grad_(False).eval())

    @contextmanager
    def reference() -> Iterator[Any]:
        if frozen is not None:
            yield frozen
        else:
            with bare(trainer.model_wrapped).disable_adapter():  # type: ignore[operator]
                yield trainer.model_wrapped

    trainer.steps.layout.reference = reference
