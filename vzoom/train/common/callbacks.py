"""What happens beside the updates of a training, SFT's or GRPO's: held-out evaluation, best model, checkpoints, log.

And before all of these: a training whose loss, gradient or weights are no numbers ends at that update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from ...data import Record
from ...protocol import Judge
from ..rl.reward import RewardConfig
from .checkpoints import Best, TrainingFolder
from .held_out_eval import evaluate
from .optim import check_finite, named_state
from .rollout_engine import RolloutEngine

Line = Callable[[dict[str, Any], int, float], str]
"""A row of the log, the number of steps of the run and the seconds per step -> a line for the console."""


_MEND = (
    "nothing of this update is kept. Train into another folder with a lower learning rate, a longer warmup or a "
    "smaller max_grad_norm, or without the data of this update"
)


class TrainingCallback:
    """Evaluates, keeps the best model, completes checkpoints and writes the log while a trainer trains.

    A step is what the folder's unit says: one update of SFT, or `updates_per_step` updates of GRPO.

    Args:
        folder: where all of it goes.
        engine: answers the held-out questions, and is the model that is saved.
        questions: held out. Without any, nothing is evaluated: call `save_last` after the training.
        num_steps: of the run.
        eval_every: steps from one evaluation to the next; the last step is always followed by one.
        line: says a step on the console.
        updates_per_step: the trainer's updates of one step.
        judge: for questions without options.
        reward: the weights of accuracy and format in the held-out reward.
        evaluate_first: also evaluate the model before the first step.
        progress: what a resumed run needs besides the trainer's own state and the best model.
        best: of the run that is resumed.
    """

    def __init__(
        self,
        folder: TrainingFolder,
        engine: RolloutEngine,
        questions: Sequence[Record],
        *,
        num_steps: int,
        eval_every: int,
        line: Line,
        updates_per_step: int = 1,
        judge: Judge | None = None,
        reward: RewardConfig | None = None,
        evaluate_first: bool = False,
        progress: Callable[[], dict[str, Any]] = dict,
        best: Best | None = None,
    ) -> None:
        self.folder, self.engine, self.questions = folder, engine, questions
        self.num_steps, self.eval_every, self.updates_per_step = num_steps, eval_every, updates_per_step
        self.judge, self.reward, self.evaluate_first = judge, reward, evaluate_first
        self.line, self.progress, self.best = line, progress, best

    def attach(self, trainer: Any, *, step: int) -> None:
        """Let a trainer call this, from after `step` on."""
        from transformers import PrinterCallback, TrainerCallback

        self.trainer = trainer
        self.log = self.folder.open_log(step=step)
        trainer.remove_callback(PrinterCallback)
        self._check_updates(trainer)
        events = ("on_train_begin", "on_step_end", "on_save", "on_log")
        methods = {name: staticmethod(getattr(self, name)) for name in events}
        trainer.add_callback(type("TrainingEvents", (TrainerCallback,), methods)())

    def _check_updates(self, trainer: Any) -> None:
        """Raise NotFinite after the forward and backward of an update, before anything is made of them."""
        original = trainer.training_step

        def training_step(*args: Any, **kwargs: Any) -> Any:
            loss = original(*args, **kwargs)
            update = trainer.state.global_step + 1
            check_finite([("loss", loss)], where=f"update {update}: the", mend=_MEND)
            if trainer.accelerator.sync_gradients:  # they are whole, and not clipped yet: one NaN is in one of them
                named = trainer.model.named_parameters()
                gradients = [(name, p.grad) for name, p in named if p.grad is not None]
                check_finite(gradients, where=f"update {update}: the gradient of", mend=_MEND)
            return loss

        trainer.training_step = training_step

    def _check_weights(self, where: str, mend: str) -> None:
        named = self.trainer.model.named_parameters()
        check_finite([(name, p) for name, p in named if p.requires_grad], where=where, mend=mend)

    def save_last(self, step: int) -> None:
        """Make the model as it is now, after `step`, the one to keep."""
        self.engine.update(self.trainer.model_wrapped)
        self.best = (None, step)
        self.folder.save_best(self.engine.checkpoint, self.engine.config, step)
        self.folder.remove_other_best_models(self.best)

    def evaluate(self, step: int) -> None:
        """Answer the held-out questions with the weights of now, and keep the model if it is the best so far."""
        started = time.perf_counter()
        self.engine.update(self.trainer.model_wrapped)
        found = evaluate(self.engine, self.questions, reward=self.reward, group=self.folder.group, judge=self.judge)
        if self.best is None or self.best[0] is None or found.reward > self.best[0]:
            self.best = (found.reward, step)
            self.folder.save_best(self.engine.checkpoint, self.engine.config, step)
        for name, value in asdict(found).items():
            note(self.trainer, f"eval/{name}", float(value))
        note(self.trainer, "seconds/eval", time.perf_counter() - started)
        self.folder.say(f"{self.folder.unit} {step}: {found}")

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started, self.first_step = time.perf_counter(), self._step(state)
        if state.global_step:
            checkpoint = self.folder.out / "checkpoints" / f"checkpoint-{state.global_step}"
            mend = "remove it, and the run resumes from the one before, or begins anew"
            self._check_weights(f"{checkpoint} is damaged:", mend)
            names = {p: name for name, p in self.trainer.model.named_parameters()}
            check_finite(named_state(self.trainer.optimizer, names), where=f"{checkpoint} is damaged:", mend=mend)
        else:
            self._check_weights("the base cannot be trained:", "`vzoom verify` says what is wrong with it")
        if self.evaluate_first and self.questions and self.best is None:
            self.evaluate(self.first_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._check_weights(f"update {state.global_step}: the weight", _MEND)  # before it can be saved
        # What transformers calls a step is an update.
        is_whole = state.global_step % self.updates_per_step == 0
        step = self._step(state)
        if self.questions and is_whole and (step % self.eval_every == 0 or step == self.num_steps):
            self.evaluate(step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.folder.mark_complete(
            self.trainer, state.global_step, step=self._step(state), best=self.best, progress=self.progress()
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        if self.log is None or "loss" not in logs:
            return
        step = self._step(state)
        row = {"step": step, **({} if self.folder.unit == "update" else {"update": state.global_step}), **logs}
        self.log.add(row)
        seconds_per_step = (time.perf_counter() - self.started) / max(1, step - self.first_step)
        self.folder.say(self.line(row, self.num_steps, seconds_per_step))

    def _step(self, state: Any) -> int:
        """Whole steps that the trainer has done."""
        return int(state.global_step) // self.updates_per_step


def note(trainer: Any, name: str, value: float) -> None:
    """Put a figure into the next row of the log of a trainer of TRL."""
    trainer._metrics["train"].setdefault(name, []).append(value)
