"""The folder of one training, SFT's or GRPO's: where it goes on, the best model so far, what is there in the end.

What lies in it is described in `keep.py`. Every process has one; only the first writes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..rl.rollout import Sampler
from .checkpoints import Log, best_folder, forget_others, mark_whole, newest_whole, publish, save_whole
from .dist import Team


class TrainingFolder:
    """identity: what a checkpoint must be of to be gone on from. unit: what the run counts, "step" or "update"."""

    def __init__(
        self, out: Path, team: Team, *, identity: dict[str, str], unit: str, say: Callable[[str], None]
    ) -> None:
        self.out, self.team, self.identity, self.unit = out, team, identity, unit
        self._say = say

    @property
    def is_first(self) -> bool:
        return self.team.rank == 0

    def say(self, line: str) -> None:
        """Once, however many processes there are."""
        if self.is_first:
            self._say(line)

    def begin(self, resume: str, *, of: str) -> tuple[Path, dict[str, Any]] | None:
        """The checkpoint to go on from and what was kept with it, if there is one. ValueError where it is of another
        run; of: how the message names what may differ."""
        checkpoints = self.out / "checkpoints"
        if resume == "never" and self.is_first:
            shutil.rmtree(checkpoints, ignore_errors=True)
        checkpoints.mkdir(parents=True, exist_ok=True)
        held = self.team.share(newest_whole(checkpoints) if self.is_first else None)[0]
        if held is not None and held[1]["identity"] != self.identity:
            raise ValueError(f"{held[0]} is of another {of}: name another folder, or resume='never'")
        return held

    def log(self, *, step: int) -> Log | None:
        """The log up to `step`, to be gone on with; None but in the first process."""
        return Log(self.out / "log.jsonl", step=step) if self.is_first else None

    def keep(self, sampler: Sampler, step: int) -> None:
        """The sampler's model as the best so far."""
        if self.is_first:
            save_whole(sampler.checkpoint, sampler.config, best_folder(self.out, step))

    def mark(self, trainer: Any, update: int, state: dict[str, Any], *, best_step: int | None) -> None:
        """The trainer's checkpoint behind `update` is written, with `state` beside it. All processes call it."""
        if self.team.size > 1:
            trainer.accelerator.wait_for_everyone()  # each has a part of it to write
        if self.is_first:
            mark_whole(self.out / "checkpoints" / f"checkpoint-{update}", {"identity": self.identity, **state})
            if best_step is not None:
                forget_others(self.out, best_step)

    def finish(self, trainer: Any, name: str, *, done: int, best: tuple[float | None, int], **more: Any) -> None:
        """Put the best model in its place, and sum up in `name`: best is its held-out reward and step. All processes
        call it, and go on when the first is done."""
        if self.is_first:
            reward, step = best
            publish(best_folder(self.out, step), self.out)
            summary = {f"{self.unit}s": done, f"best_{self.unit}": step, "best_reward": reward, **more}
            (self.out / name).write_text(json.dumps(summary, indent=1) + "\n")
            worth = "" if reward is None else f", its held-out reward is {reward:.3f}"
            self.say(f"{self.unit} {step} is kept in {self.out}{worth}")
        if self.team.size > 1:
            trainer.accelerator.wait_for_everyone()
