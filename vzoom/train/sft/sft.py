"""`run_sft`: supervised fine-tuning on conversations, by TRL's SFTTrainer over our samples and batches.

Loss only on learned tokens: the turns of the model, without flawed ones, and without what the session put in itself.
Every eval_every updates held-out questions are answered greedily by our engine with the weights of the moment; the
best model by their reward is what the folder holds in the end. What else lies there: see `keep.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...data import Record
from ...eval import judge_for
from ...protocol import Judge
from ..common.dist import Team
from ..common.features import FrozenFeatures
from ..common.memory import announce
from ..common.optim import make_optimizer
from ..common.policy import Policy
from ..common.samples import Sample, from_record
from ..common.setup import Data, held_out_of, models_of, records_of
from ..common.training_folder import TrainingFolder
from ..common.trl_settings import order, sft_config
from ..recipes.recipe import Recipe
from .callbacks import SFTRun, digest


def run_sft(
    recipe: Recipe,
    *,
    base: str | os.PathLike[str],
    data: Data,
    out: str | os.PathLike[str],
    resume: Literal["auto", "never"] = "auto",
    questions: Data | None = None,
    judge: Judge | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Train `base` (folder or hub id) on conversations (records, or a folder or folders of them). Returns `out`, which
    `vzoom.load` reads.

    questions: held out, for the best checkpoint, answered under recipe.zoom; without them the last is kept. judge: for
    questions without options; None takes it from the environment where it is needed. resume "auto" goes on from the
    newest whole checkpoint in `out`, "never" begins anew. Under `accelerate launch` every process calls it.
    ValueError for a recipe, a base or data that do not fit, ImportError where an extra is missing.
    """
    out, base, part = Path(out), os.fspath(base), recipe.sft
    records = records_of(data, "records to train on")
    held_out = held_out_of(questions, part.eval_questions)
    judge = judge or judge_for(held_out)
    args = sft_config(part, out / "checkpoints", seed=recipe.seed, num_samples=len(records))
    identity = {
        "recipe": repr((replace(part, save_every=1), recipe.zoom, recipe.seed)),
        "base": base,
        "records": digest([record.id for record in (*records, *held_out)]),
    }
    team = Team(args.process_index, args.world_size)
    folder = TrainingFolder(out, team, identity=identity, unit="update", say=say)
    run = SFTRun(part, folder, held_out, judge, num_updates=args.max_steps)
    held = run.begin(resume)

    folder.say(str(announce(recipe, part, base, on_gpu=args.device.type == "cuda")))
    policy, sampler = models_of(recipe, part, base, args, out, max_sessions=part.eval_sessions)
    samples = _samples(records, policy, folder.say)
    folder.say(
        f"sft {recipe.name}: {len(samples)} conversations of {min(map(len, samples))} to {max(map(len, samples))} "
        f"tokens, {sum(int(s.learned.sum()) for s in samples)} of {sum(map(len, samples))} learned; {args.max_steps} "
        f"updates of {part.batch_size} on {team.size} process{'es' if team.size > 1 else ''}"
    )
    if args.device.type == "cpu" and isinstance(policy.visuals, FrozenFeatures):
        policy.visuals.prepare(samples)
    trainer = _trainer(policy, samples, recipe, args)
    run.watch(trainer, sampler)
    try:
        trainer.train(resume_from_checkpoint=held)
    finally:
        sampler.close()
    run.finish(trainer)
    return out


def _samples(records: Sequence[Record], policy: Policy, say: Callable[[str], None]) -> list[Sample]:
    samples = [from_record(record, policy.vocabulary) for record in records]
    taught = [sample for sample in samples if sample.learned.any()]
    if not taught:
        raise ValueError(f"none of {len(samples)} conversations has a turn to learn: all are flawed")
    if len(taught) < len(samples):
        say(f"{len(samples) - len(taught)} conversations have no turn to learn and are left out")
    return taught


def _trainer(policy: Policy, samples: Sequence[Sample], recipe: Recipe, args: Any) -> Any:
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import PrinterCallback
    from trl import SFTTrainer

    _score_labels_only()
    rows = order(recipe.sft, np.array([len(sample) for sample in samples]), seed=recipe.seed)

    def batch(examples: Sequence[dict[str, int]]) -> dict[str, Any]:
        return policy.collate([samples[example["row"]] for example in examples], targets="learned")

    trainer = SFTTrainer(
        model=policy.model,
        args=args,
        train_dataset=Dataset.from_dict({"row": rows}),
        data_collator=batch,
        processing_class=policy.tokenizer,
        optimizers=(make_optimizer(policy.model, recipe.sft.optimisation), None),
    )
    # `order` has decided. (Newer versions of transformers have a setting for it, 5.0 has none.)
    trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)
    # Every learned token of an update weighs the same, whichever micro-batch and process it is in. The model's own
    # word is that it cannot tell, but TRL computes this loss, not the model.
    trainer.model_accepts_loss_kwargs = True
    trainer.create_model_card = lambda *args, **kwargs: None
    trainer.remove_callback(PrinterCallback)
    return trainer


def _score_labels_only() -> None:
    """On the CPU TRL's head scores every position, to spare other devices a recompilation: a quarter of a small
    model's update. The tested range of TRL has this switch; without it nothing is lost but time."""
    from trl.trainer import utils

    spares = getattr(utils, "_use_triton", None)
    if spares is not None and spares.__module__.startswith("trl"):
        utils._use_triton = lambda device: device.type == "cpu" or spares(device)
