"""`run_grpo`: reinforcement learning of a policy that zooms.

Our engine rolls out, TRL computes the loss (`trl_adapter.py`). A step rolls out questions_per_step groups
(`grpo_step.py`) and uses them for updates_per_step updates. Every eval_every steps held-out questions are answered
greedily; the best model by their reward is what the folder holds in the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ...eval import judge_for
from ...protocol import Judge
from ..common.callbacks import TrainingCallback
from ..common.checkpoints import TrainingFolder
from ..common.dist import ProcessGroup
from ..common.memory import estimate_for
from ..common.optim import make_optimizer
from ..common.policy import PolicyModel, load_policy
from ..common.setup import Data, held_out_questions, load_models, questions_of
from ..common.trl_settings import grpo_config
from ..common.weight_sync import unwrapped
from ..recipes.recipe import GRPORecipe, Recipe
from .grpo_step import Collapsed, GRPOSteps, ReferenceModel
from .progress import GRPOProgress
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
    """Train a checkpoint on questions. Under `accelerate launch` every process calls it.

    The run ends early if the policy collapses: out/grpo.json says why.

    Args:
        recipe: its `grpo` says how, its `zoom` how every conversation is held.
        base: the checkpoint, a folder or hub id.
        questions: to roll out: records with reference answers, or a folder or folders of them.
        out: the run's folder.
        resume: "auto" resumes from the newest complete checkpoint in `out`, "never" begins anew.
        eval_questions: held out, to choose the best model by. Without them the last model is kept.
        judge: for questions without options; None takes it from the environment if it is needed.
        say: gets the lines for the console.

    Returns:
        `out`, which `vzoom.load` reads.

    Raises:
        ValueError: the recipe, the base or the questions do not fit.
        ImportError: an extra is not installed, or TRL is of another version than we know.
        LogprobMismatchError: engine and trainer do not agree on what was sampled.
    """
    out, base, part = Path(out), os.fspath(base), recipe.grpo
    records = questions_of(questions, "questions to roll out")
    held_out = held_out_questions(eval_questions, part.eval_questions)
    judge = judge or judge_for((*records, *held_out))
    args = grpo_config(part, out / "checkpoints", seed=recipe.seed)
    make_trainer = trainer_class()
    group = ProcessGroup(args.process_index, args.world_size)
    identity = {"recipe": repr((part, recipe.zoom, recipe.seed)), "base": base}
    with TrainingFolder(out, group, identity=identity, unit="step", say=say) as folder:
        start = folder.resume(resume, identified_by="recipe or base")

        folder.say(str(estimate_for(recipe, part, base, on_gpu=args.device.type == "cuda")))
        policy, engine = load_models(
            recipe, part, base, args, out, max_sessions=part.max_sessions, pool_tokens=part.pool_tokens
        )
        steps = GRPOSteps(recipe, policy, engine, records, group=group, judge=judge)
        if start.checkpoint is not None:
            steps.progress = GRPOProgress.from_json(start.progress)
            folder.say(f"resumes after step {start.step} of {part.steps}")
        trainer = make_trainer(
            model=policy.model,
            reward_funcs=no_reward,
            args=args,
            train_dataset=numbers_of_questions(part),
            processing_class=policy.tokenizer,
            optimizers=(_optimizer(policy, part), None),
        )
        trainer.steps = steps
        if part.kl_weight:
            trainer.beta = part.kl_weight  # set now: told earlier, TRL would load a reference that knows no features
            steps.reference = _reference(trainer, policy, part)
        callback = TrainingCallback(
            folder,
            engine,
            held_out,
            num_steps=part.steps,
            eval_every=part.eval_every,
            line=_line,
            updates_per_step=part.updates_per_step,
            judge=judge,
            reward=part.reward,
            evaluate_first=True,
            progress=lambda: steps.progress.to_json(),  # noqa: PLW0108  (each step makes another `progress`)
            best=start.best,
        )
        callback.attach(trainer, step=start.step)
        stopped = None
        try:
            trainer.train(resume_from_checkpoint=None if start.checkpoint is None else str(start.checkpoint))
        except Collapsed as problem:
            stopped = str(problem)
            folder.say(f"stopped at step {steps.progress.step}: {stopped}")
        finally:
            engine.close()
        if not held_out:
            callback.save_last(steps.progress.step)
        assert callback.best is not None
        folder.finish(trainer, "grpo.json", done=steps.progress.step, best=callback.best, stopped=stopped)
    return out


def numbers_of_questions(part: GRPORecipe) -> Any:
    """TRL's data set: one pass over it is one step. Which questions these are, `GRPOSteps` decides."""
    from datasets import Dataset

    return Dataset.from_dict({"prompt": [str(i) for i in range(part.questions_per_step)]})


def _optimizer(policy: PolicyModel, part: GRPORecipe) -> Any:
    """None: AdamW as the Trainer makes it, over shards if weights are sharded."""
    return None if part.optimisation.muon_learning_rate is None else make_optimizer(policy.model, part.optimisation)


def _reference(trainer: Any, policy: PolicyModel, part: GRPORecipe) -> ReferenceModel:
    """The policy before training: without its adapters, or a frozen copy of the base."""
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
            with unwrapped(trainer.model_wrapped).disable_adapter():  # type: ignore[operator]
                yield trainer.model_wrapped

    return reference


def _line(row: dict[str, Any], num_steps: int, seconds_per_step: float) -> str:
    """One step on the console."""

    def figure(name: str, digits: int = 3) -> str:
        value = row.get(name)
        return "-" if value is None else f"{value:.{digits}f}"

    left = seconds_per_step * (num_steps - row["step"])
    return (
        f"step {row['step']}/{num_steps} reward {figure('reward')} accuracy {figure('accuracy')} "
        f"zoom rate {figure('zoom_rate', 2)} format {figure('format_rate', 2)} tokens {figure('tokens', 0)} "
        f"keep {figure('keep_rate', 2)} refills {figure('refills', 0)} loss {figure('loss', 4)} "
        f"kl {figure('kl', 4)} entropy {figure('entropy')} "
        f"clipped {figure('clip_ratio/low_mean', 4)}/{figure('clip_ratio/high_mean', 4)} "
        f"mismatch {row['logprob_mismatch']:.1e} {seconds_per_step:.1f} s/step, {left / 60:.0f} min left"
    )
