"""What an SFT run leaves on the disk, and says: held-out evaluation, the best model, checkpoints, the log."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..data.record import Record
from ..eval.judge import Judge
from .heldout import evaluate
from .keep import Log, best_folder, forget_others, mark_whole, newest_whole, publish, save_whole
from .recipe import Recipe
from .rollout import Sampler
from .team import Team


class SFTRun:
    """One run in the folder `out`. `begin`, then `watch` the trainer, then `finish`."""

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
        self.identity = {"recipe": settings, "base": self.base, "records": _digest(ids)}
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


def _digest(ids: Sequence[str]) -> str:
    """A digest of a list of names, in order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def line(step: int, num_updates: int, logs: dict[str, Any], seconds: float) -> str:
    """An update in the console."""
    return (
        f"update {step}/{num_updates} loss {logs['loss']:.4f} right tokens {logs['mean_token_accuracy']:.3f} "
        f"gradient {logs['grad_norm']:.2f} lr {logs['learning_rate']:.2g} {seconds:.2f} s/update, "
        f"{seconds * (num_updates - step) / 60:.0f} min left"
    )
