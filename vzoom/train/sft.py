"""`run_sft`: supervised fine-tuning on conversations, by TRL's SFTTrainer over our samples and batches.

Loss only on learned tokens: the turns of the model, without flawed ones, and without what the session put in itself.
Every eval_every updates held-out questions are answered greedily by our engine with the weights of the moment; the
best model by their reward is what the folder holds in the end. What else lies there: see `keep.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..data.record import Record
from ..data.store import read
from ..models import load_checkpoint
from .features import FrozenFeatures
from .heldout import evaluate
from .judge import HTTPJudge
from .keep import Log, best_folder, forget_others, mark_whole, newest_whole, publish, save_whole
from .memory import announce
from .optim import make_optimizer
from .policy import Policy, load_policy
from .recipe import Recipe
from .reward import Judge
from .rollout import Sampler, reference_of
from .samples import Sample, from_record
from .team import Team
from .trainer_args import order, sft_config

Data = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Sequence[Record]


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
    records = _records(data)
    held_out = [] if questions is None else _records(questions)[: part.eval_questions]
    for record in held_out:
        reference_of(record)
    if judge is None and not all(record.options for record in held_out):
        judge = HTTPJudge.from_environment()
    args = sft_config(part, out / "checkpoints", seed=recipe.seed, num_samples=len(records))
    team = Team(args.process_index, args.world_size)
    talk = say if team.rank == 0 else _silent
    run = _Run(recipe, base, out, team, held_out, judge, talk, num_updates=args.max_steps)
    held = run.begin(records, resume)

    talk(str(announce(recipe, part, base, on_gpu=args.device.type == "cuda")))
    policy, sampler = _models(recipe, base, args, out)
    samples = _samples(records, policy, talk)
    talk(
        f"sft {recipe.name}: {len(samples)} conversations of {min(map(len, samples))} to {max(map(len, samples))} "
        f"tokens, {sum(int(s.learned.sum()) for s in samples)} of {sum(map(len, samples))} learned; {args.max_steps} "
        f"updates of {part.batch_size} on {team.size} process{'es' if team.size > 1 else ''}"
    )
    if args.device.type == "cpu" and isinstance(policy.visuals, FrozenFeatures):
        policy.visuals.prepare(samples)
    trainer = _trainer(policy, samples, recipe, args)
    run.watch(trainer, sampler)
    try:
        trainer.train(resume_from_checkpoint=None if held is None else str(held))
    finally:
        sampler.close()
    run.finish()
    if team.size > 1:
        trainer.accelerator.wait_for_everyone()
    return out


def _silent(_: str) -> None:
    pass


def _records(data: Data) -> list[Record]:
    if isinstance(data, str | os.PathLike):
        data = [data]
    records: list[Record] = []
    for one in data:
        records += [one] if isinstance(one, Record) else list(read(one))
    if not records:
        raise ValueError("there are no records to train on")
    return records


def _models(recipe: Recipe, base: str, args: Any, out: Path) -> tuple[Policy, Sampler]:
    """The policy, and the engine that answers held-out questions. What one decodes and encodes the other need not."""
    import torch

    part, on_gpu = recipe.sft, args.device.type == "cuda"
    sampler = Sampler(load_checkpoint(base, device=str(args.device)), recipe.zoom, max_sessions=part.eval_sessions)
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
    from transformers import PrinterCallback
    from trl import SFTTrainer

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
    # Every learned token of an update weighs the same, whichever micro-batch and process it is in. The model's own
    # word is that it cannot tell, but TRL computes this loss, not the model.
    trainer.model_accepts_loss_kwargs = True
    trainer.create_model_card = lambda *args, **kwargs: None
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Run:
    """What a run leaves on the disk, and what it says."""

    def __init__(
        self,
        recipe: Recipe,
        base: str,
        out: Path,
        team: Team,
        held_out: Sequence[Record],
        judge: Judge | None,
        say: Callable[[str], None],
        *,
        num_updates: int,
    ) -> None:
        self.recipe, self.base, self.out, self.team = recipe, base, out, team
        self.held_out, self.judge, self.say, self.num_updates = held_out, judge, say, num_updates
        self.best: tuple[float, int] | None = None
        self.log: Log | None = None

    def begin(self, records: Sequence[Record], resume: str) -> Path | None:
        """The checkpoint to go on from, if there is one. ValueError where it is of another run."""
        part = self.recipe.sft
        settings = repr((replace(part, save_every=1), self.recipe.zoom, self.recipe.seed))
        ids = [record.id for record in (*records, *self.held_out)]
        self.identity = {"recipe": settings, "base": self.base, "records": str(hash_of(ids))}
        checkpoints = self.out / "checkpoints"
        if resume == "never" and self.team.rank == 0:
            shutil.rmtree(checkpoints, ignore_errors=True)
        checkpoints.mkdir(parents=True, exist_ok=True)
        held = self.team.share(newest_whole(checkpoints) if self.team.rank == 0 else None)[0]
        step = 0
        if held is not None:
            if held[1]["identity"] != self.identity:
                raise ValueError(
                    f"{held[0]} is of another recipe, base or data: name another folder, or resume='never'"
                )
            step, best = held[1]["step"], held[1]["best"]
            self.best = None if best is None else (best[0], best[1])
            self.say(f"going on behind update {step} of {self.num_updates}")
        if self.team.rank == 0:
            self.log = Log(self.out / "log.jsonl", step=step)
        return None if held is None else held[0]

    def weigh(self, trainer: Any, sampler: Sampler, step: int) -> None:
        """Evaluate, and keep the model where it is the best so far; without held-out questions keep it anyway."""
        started = time.perf_counter()
        sampler.update(trainer.model_wrapped)
        reward = float(step)
        if self.held_out:
            found = evaluate(sampler, self.held_out, team=self.team, judge=self.judge)
            reward = found.reward
            for name, value in {**asdict(found), "seconds": time.perf_counter() - started}.items():
                trainer._metrics["train"][f"eval/{name}"].append(value)  # goes into the log of this update
            self.say(
                f"update {step}: held out {found.count}, reward {found.reward:.3f}, accuracy {found.accuracy:.3f}, "
                f"zooms {found.zooms:.2f}, frames {found.frames:.1f}"
            )
        if self.best is None or reward > self.best[0]:
            self.best = reward, step
            if self.team.rank == 0:
                save_whole(sampler.checkpoint, self.recipe.zoom, best_folder(self.out, step))

    def watch(self, trainer: Any, sampler: Sampler) -> None:
        from transformers import TrainerCallback

        run, part = self, self.recipe.sft

        class Watch(TrainerCallback):  # type: ignore[misc, unused-ignore]
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                self.begun, self.first = time.perf_counter(), state.global_step

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                step = state.global_step
                is_last = step == run.num_updates
                if is_last or (run.held_out and step % part.eval_every == 0):
                    run.weigh(trainer, sampler, step)

            def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if run.team.size > 1:
                    trainer.accelerator.wait_for_everyone()  # each has a part of it to write
                if run.team.rank == 0:
                    whole = {"identity": run.identity, "step": state.global_step, "best": run.best}
                    folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                    mark_whole(folder, whole)
                    if run.best is not None:
                        forget_others(run.out, run.best[1])

            def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
                if run.log is None or "loss" not in logs:
                    return
                run.log.add({"step": state.global_step, **logs})
                seconds = (time.perf_counter() - self.begun) / max(1, state.global_step - self.first)
                run.say(line(state.global_step, run.num_updates, logs, seconds))

        trainer.add_callback(Watch())

    def finish(self) -> None:
        if self.team.rank:
            return
        assert self.best is not None
        reward, step = self.best
        publish(best_folder(self.out, step), self.out)
        summary = {"updates": self.num_updates, "best_update": step, "best_reward": reward if self.held_out else None}
        (self.out / "sft.json").write_text(json.dumps(summary, indent=1) + "\n")
        worth = f", its held-out reward is {reward:.3f}" if self.held_out else ""
        self.say(f"update {step} is kept in {self.out}{worth}")


def hash_of(ids: Sequence[str]) -> str:
    """A digest of a list of names, in order."""
    import hashlib

    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def line(step: int, num_updates: int, logs: dict[str, Any], seconds: float) -> str:
    """An update in the console."""
    return (
        f"update {step}/{num_updates} loss {logs['loss']:.4f} right tokens {logs['mean_token_accuracy']:.3f} "
        f"gradient {logs['grad_norm']:.2f} lr {logs['learning_rate']:.2g} {seconds:.2f} s/update, "
        f"{seconds * (num_updates - step) / 60:.0f} min left"
    )
