"""`run_sft`: supervised fine-tuning on conversations, by TRL's SFTTrainer over our samples and batches.

Loss only on learned tokens: the turns of the model, without flawed ones, and without what the session put in itself.
Every eval_every updates held-out questions are answered greedily by our engine with the weights of the moment; the
best model by their reward is what the folder holds in the end (`common/checkpoints.py`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...data import Record
from ...eval import judge_for
from ...protocol import Judge
from ..common.callbacks import TrainingCallback
from ..common.checkpoints import TrainingFolder
from ..common.dist import ProcessGroup
from ..common.features import FrozenFeatures
from ..common.memory import estimate_for
from ..common.optim import make_optimizer
from ..common.policy import PolicyModel
from ..common.samples import Sample, from_record
from ..common.setup import Data, held_out_questions, load_models, records_of
from ..common.trl_settings import sft_config
from ..recipes.recipe import Recipe
from .order import num_updates, order


def run_sft(
    recipe: Recipe,
    *,
    base: str | os.PathLike[str],
    data: Data,
    out: str | os.PathLike[str],
    resume: Literal["auto", "never"] = "auto",
    eval_questions: Data | None = None,
    judge: Judge | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Train a checkpoint on conversations. Under `accelerate launch` every process calls it.

    Args:
        recipe: its `sft` says how, its `zoom` how held-out questions are answered.
        base: the checkpoint, a folder or hub id.
        data: the conversations: records with turns, or a folder or folders of them.
        out: the run's folder.
        resume: "auto" resumes from the newest complete checkpoint in `out`, "never" begins anew.
        eval_questions: held out, to choose the best model by. Without them the last model is kept.
        judge: for questions without options; None takes it from the environment if it is needed.
        say: gets the lines for the console.

    Returns:
        `out`, which `vzoom.load` reads.

    Raises:
        ValueError: the recipe, the base or the data do not fit.
        ImportError: an extra is not installed.
    """
    out, base, part = Path(out), os.fspath(base), recipe.sft
    records = records_of(data, "records to train on")
    _check_protocols(records, recipe)
    held_out = held_out_questions(eval_questions, part.eval_questions)
    judge = judge or judge_for(held_out)
    updates = num_updates(part, len(records))
    args = sft_config(part, out / "checkpoints", seed=recipe.seed, num_updates=updates)
    identity = {
        "recipe": repr((replace(part, save_every=1), recipe.zoom, recipe.seed)),
        "base": base,
        "records": _digest([record.id for record in (*records, *held_out)]),
    }
    group = ProcessGroup(args.process_index, args.world_size)
    with TrainingFolder(out, group, identity=identity, unit="update", say=say) as folder:
        start = folder.resume(resume, identified_by="recipe, base or data")
        if start.checkpoint is not None:
            folder.say(f"resumes after update {start.step} of {updates}")

        folder.say(str(estimate_for(recipe, part, base, on_gpu=args.device.type == "cuda")))
        policy, engine = load_models(recipe, part, base, args, out, max_sessions=part.eval_sessions)
        samples = _samples(records, policy, folder.say)
        folder.say(
            f"sft {recipe.name}: {len(samples)} conversations of {min(map(len, samples))} to {max(map(len, samples))} "
            f"tokens, {sum(int(s.learned.sum()) for s in samples)} of {sum(map(len, samples))} learned; {updates} "
            f"updates of {part.batch_size} on {group.size} process{'es' if group.size > 1 else ''}"
        )
        if args.device.type == "cpu" and isinstance(policy.visuals, FrozenFeatures):
            policy.visuals.prepare(samples)
        trainer = _trainer(policy, samples, recipe, args)
        callback = TrainingCallback(
            folder,
            engine,
            held_out,
            num_steps=updates,
            eval_every=part.eval_every,
            line=_line,
            judge=judge,
            best=start.best,
        )
        callback.attach(trainer, step=start.step)
        try:
            trainer.train(resume_from_checkpoint=None if start.checkpoint is None else str(start.checkpoint))
        finally:
            engine.close()
        if not held_out:
            callback.save_last(updates)
        assert callback.best is not None
        folder.finish(trainer, "sft.json", done=updates, best=callback.best)
    return out


def _check_protocols(records: Sequence[Record], recipe: Recipe) -> None:
    """ValueError if a conversation is held in other words than those in which the model will be asked."""
    own = recipe.zoom.protocol
    for record in records:
        told = record.config.protocol
        if told.language != own.language:
            raise ValueError(
                f"record {record.id} is in the protocol {told.name}, and the recipe asks its questions in {own.name}: "
                "name the one of the records (--protocol)"
            )


def _samples(records: Sequence[Record], policy: PolicyModel, say: Callable[[str], None]) -> list[Sample]:
    """The conversations that have something to learn."""
    samples = [from_record(record, policy.vocabulary) for record in records]
    learned = [sample for sample in samples if sample.learned.any()]
    if not learned:
        raise ValueError(f"none of {len(samples)} conversations has a turn to learn: all are flawed")
    if len(learned) < len(samples):
        say(f"{len(samples) - len(learned)} conversations have no turn to learn and are left out")
    return learned


def _trainer(policy: PolicyModel, samples: Sequence[Sample], recipe: Recipe, args: Any) -> Any:
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from trl import SFTTrainer

    _score_labels_only()
    rows = order(recipe.sft, np.array([len(sample) for sample in samples]), seed=recipe.seed)

    def collate(examples: Sequence[dict[str, int]]) -> dict[str, Any]:
        # On the CPU: accelerate moves batches to the device.
        return policy.collate([samples[example["row"]] for example in examples], targets="learned").to("cpu")

    trainer = SFTTrainer(
        model=policy.model,
        args=args,
        train_dataset=Dataset.from_dict({"row": rows}),
        data_collator=collate,
        processing_class=policy.tokenizer,
        optimizers=(make_optimizer(policy.model, recipe.sft.optimisation), None),
    )
    # `order` has decided. (Newer versions of transformers have a setting for it, 5.0 has none.)
    trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)
    # Every learned token of an update weighs the same, whichever micro-batch and process it is in. The model's own
    # word is that it cannot tell, but TRL computes this loss, not the model.
    trainer.model_accepts_loss_kwargs = True
    trainer.create_model_card = lambda *args, **kwargs: None
    return trainer


def _score_labels_only() -> None:
    """On the CPU TRL's head scores every position, to spare other devices a recompilation: a quarter of a small
    model's update. The tested range of TRL has this switch; without it nothing is lost but time."""
    from trl.trainer import utils

    spares = getattr(utils, "_use_triton", None)
    if spares is not None and spares.__module__.startswith("trl"):
        utils._use_triton = lambda device: device.type == "cpu" or spares(device)


def _digest(ids: Sequence[str]) -> str:
    """A digest of a list of names, in order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def _line(row: dict[str, Any], num_updates: int, seconds_per_update: float) -> str:
    """One update on the console."""
    return (
        f"update {row['step']}/{num_updates} loss {row['loss']:.4f} right tokens {row['mean_token_accuracy']:.3f} "
        f"gradient {row['grad_norm']:.2f} lr {row['learning_rate']:.2g} {seconds_per_update:.2f} s/update, "
        f"{seconds_per_update * (num_updates - row['step']) / 60:.0f} min left"
    )
