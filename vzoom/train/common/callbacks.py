"""What happens beside the updates of an RL run: held-out evaluation, the best model, states of checkpoints, the log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from ...data import Record
from ..rl.steps import Steps
from .checkpoints import forget_others
from .held_out_eval import evaluate
from .training_folder import TrainingFolder


def keep_last(steps: Steps, model: Any, folder: TrainingFolder) -> None:
    """Make the model as it is now the one to keep."""
    steps.sampler.update(model)
    steps.progress = replace(steps.progress, best=(None, steps.progress.step))
    folder.keep(steps.sampler, steps.progress.step)
    if folder.is_first:
        forget_others(folder.out, steps.progress.step)


def watch(trainer: Any, steps: Steps, held_out: Sequence[Record], folder: TrainingFolder) -> None:
    """Hang all of this on the trainer."""
    from transformers import PrinterCallback, TrainerCallback

    part, log = steps.recipe.grpo, folder.log(step=steps.progress.step)

    class Watch(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self.begun = time.perf_counter()
            self.first = steps.progress.step

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if steps.progress.best is None:
                self.weigh()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            step, left = divmod(state.global_step, part.updates_per_step)
            if not left and (step % part.eval_every == 0 or step == part.steps):
                self.weigh()

        def weigh(self) -> None:
            """Evaluate, and keep the model where it is the best so far."""
            if not held_out:
                return
            started = time.perf_counter()
            steps.sampler.update(trainer.model_wrapped)
            found = evaluate(steps.sampler, held_out, config=part.reward, team=steps.team, judge=steps.judge)
            progress = steps.progress
            best = progress.best
            if best is None or best[0] is None or found.reward > best[0]:
                steps.progress = replace(progress, best=(found.reward, progress.step))
                folder.keep(steps.sampler, progress.step)
            for name, value in asdict(found).items():
                trainer.note(f"eval/{name}", float(value))
            trainer.note("seconds/eval", time.perf_counter() - started)
            folder.say(f"step {progress.step}: {found}")

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            best = steps.progress.best
            whole = {"progress": steps.progress.to_json()}
            folder.mark(trainer, state.global_step, whole, best_step=None if best is None else best[1])

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            if log is None or "loss" not in logs:
                return
            row = {"step": steps.progress.step, "update": state.global_step, **logs}
            log.add(row)
            done = steps.progress.step - self.first
            folder.say(line(row, part.steps, (time.perf_counter() - self.begun) / max(1, done)))

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Watch())


def line(row: dict[str, Any], num_steps: int, seconds_a_step: float) -> str:
    """A step in the console."""

    def figure(name: str, digits: int = 3) -> str:
        value = row.get(name)
        return "-" if value is None else f"{value:.{digits}f}"

    left = seconds_a_step * (num_steps - row["step"])
    return (
        f"step {row['step']}/{num_steps} reward {figure('reward')} accuracy {figure('accuracy')} "
        f"zoom rate {figure('zoom_rate', 2)} format {figure('format_rate', 2)} tokens {figure('tokens', 0)} "
        f"keep {figure('keep_rate', 2)} refills {figure('refills', 0)} loss {figure('loss', 4)} "
        f"kl {figure('kl', 4)} entropy {figure('entropy')} "
        f"clipped {figure('clip_ratio/low_mean', 4)}/{figure('clip_ratio/high_mean', 4)} "
        f"gap {row['sampler_gap']:.1e} {seconds_a_step:.1f} s/step, {left / 60:.0f} min left"
    )
