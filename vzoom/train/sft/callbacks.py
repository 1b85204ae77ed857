"""What an SFT run leaves on the disk, and says: held-out evaluation, the best model, checkpoints, the log."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ...data import Record
from ...protocol import Judge
from ..common.held_out_eval import evaluate
from ..common.training_folder import TrainingFolder
from ..recipes.recipe import SFTRecipe
from ..rl.rollout import Sampler


class SFTRun:
    """One run in a folder. `begin`, then `watch` the trainer, then `finish`."""

    def __init__(
        self,
        part: SFTRecipe,
        folder: TrainingFolder,
        held_out: Sequence[Record],
        judge: Judge | None,
        *,
        num_updates: int,
    ) -> None:
        self.part, self.folder, self.held_out, self.judge = part, folder, held_out, judge
        self.num_updates = num_updates
        self.best: tuple[float, int] | None = None

    def begin(self, resume: str) -> str | None:
        """The checkpoint to go on from, if there is one. ValueError where it is of another run."""
        held, step = self.folder.begin(resume, of="recipe, base or data"), 0
        if held is not None:
            step, best = held[1]["step"], held[1]["best"]
            self.best = None if best is None else (best[0], best[1])
            self.folder.say(f"going on behind update {step} of {self.num_updates}")
        self.log = self.folder.log(step=step)
        return None if held is None else str(held[0])

    def weigh(self, trainer: Any, sampler: Sampler, step: int) -> None:
        """Evaluate, and keep the model where it is the best so far; without held-out questions keep it anyway."""
        started = time.perf_counter()
        sampler.update(trainer.model_wrapped)
        reward = float(step)
        if self.held_out:
            found = evaluate(sampler, self.held_out, team=self.folder.team, judge=self.judge)
            reward = found.reward
            for name, value in {**asdict(found), "seconds": time.perf_counter() - started}.items():
                trainer._metrics["train"][f"eval/{name}"].append(value)  # goes into the log of this update
            self.folder.say(f"update {step}: {found}")
        if self.best is None or reward > self.best[0]:
            self.best = reward, step
            self.folder.keep(sampler, step)

    def watch(self, trainer: Any, sampler: Sampler) -> None:
        from transformers import TrainerCallback

        run = self

        class Watch(TrainerCallback):  # type: ignore[misc, unused-ignore]
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                self.begun, self.first = time.perf_counter(), state.global_step

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                step = state.global_step
                is_last = step == run.num_updates
                if is_last or (run.held_out and step % run.part.eval_every == 0):
                    run.weigh(trainer, sampler, step)

            def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                step, best_step = state.global_step, None if run.best is None else run.best[1]
                run.folder.mark(trainer, step, {"step": step, "best": run.best}, best_step=best_step)

            def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
                if run.log is None or "loss" not in logs:
                    return
                run.log.add({"step": state.global_step, **logs})
                seconds = (time.perf_counter() - self.begun) / max(1, state.global_step - self.first)
                run.folder.say(line(state.global_step, run.num_updates, logs, seconds))

        trainer.add_callback(Watch())

    def finish(self, trainer: Any) -> None:
        assert self.best is not None
        reward, step = self.best
        best = (reward if self.held_out else None, step)
        self.folder.finish(trainer, "sft.json", done=self.num_updates, best=best)


def digest(ids: Sequence[str]) -> str:
    """A digest of a list of names, in order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def line(step: int, num_updates: int, logs: dict[str, Any], seconds: float) -> str:
    """An update in the console."""
    return (
        f"update {step}/{num_updates} loss {logs['loss']:.4f} right tokens {logs['mean_token_accuracy']:.3f} "
        f"gradient {logs['grad_norm']:.2f} lr {logs['learning_rate']:.2g} {seconds:.2f} s/update, "
        f"{seconds * (num_updates - step) / 60:.0f} min left"
    )
