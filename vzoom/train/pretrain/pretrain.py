"""The loop of pretraining: batches of the curriculum's tasks, one loss, checks on held-out videos, a saved state.

Every step draws from its own generator (seed, step), so that a run which was stopped sees the same batches when it
resumes.
"""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...data import LOCK, Lock, naming
from ..common.checkpoints import check_torch_file
from ..common.optim import MuonWithAdamW, check_finite, is_matrix, named_state
from . import tasks
from .curriculum import Curriculum, CurriculumStage
from .example import Example, ExampleWriter
from .export import export
from .forward import augment, collate, learned_logits
from .frame_store import FrameStore
from .model import build_model
from .tokenizer import build_tokenizer

_STATE = "trainer.pt"
_MAX_NORM = 1.0
_MEND = "nothing of this step is kept. Pretrain into another folder at lower rates (muon_lr, adam_lr)"
_OF_FAMILIES = ("listing", "reading", "answers")


class Pretraining:
    """A model in pretraining.

    Args:
        curriculum: what it learns.
        out: folder of trainer.pt (the state to resume from) and log.jsonl.
        say: takes a line of progress.
    """

    def __init__(self, curriculum: Curriculum, out: Path, *, say: Callable[[str], None] = print) -> None:
        self.curriculum, self.out, self.say = curriculum, out, say
        self.tokenizer = build_tokenizer(curriculum.zoom.protocol)
        self.model: Any = build_model(self.tokenizer, curriculum.shape, seed=curriculum.seed)
        self.optimizer = _optimizer(self.model)
        first, side = curriculum.check_videos, curriculum.side
        self.stores = {
            family: FrameStore(config, side=side, first=first, count=curriculum.num_videos)
            for family, config in curriculum.families.items()
        }
        self.check_stores = {
            family: FrameStore(config, side=side, first=0, count=first)
            for family, config in curriculum.families.items()
        }
        self.pad = self.tokenizer.convert_tokens_to_ids("<|endoftext|>")
        self.step = 0
        self.trained_seconds = 0.0

    # ------------------------------------------------------------ running

    def run(self) -> None:
        """Train to the end of the curriculum."""
        self.out.mkdir(parents=True, exist_ok=True)
        started, before, first_step = time.perf_counter(), self.trained_seconds, self.step
        losses: dict[str, list[float]] = {}
        num_steps = self.curriculum.num_steps
        while self.step < num_steps:
            task, loss = self.train_step()
            losses.setdefault(task, []).append(loss)
            self.trained_seconds = before + time.perf_counter() - started
            done = self.step == num_steps
            if self.step % 10 == 0 or done:
                pace = (time.perf_counter() - started) / (self.step - first_step)
                stage, factor = self.curriculum.at(self.step - 1)
                means = {name: round(float(np.mean(values)), 4) for name, values in sorted(losses.items())}
                self.say(
                    f"step {self.step}/{num_steps} {stage.name} "
                    f"loss {' '.join(f'{name} {value:.3f}' for name, value in means.items())} lr x{factor:.2f} "
                    f"{pace:.2f} s/step, {pace * (num_steps - self.step) / 60:.1f} min left"
                )
                self._log({"step": self.step, "stage": stage.name, "loss": means})
                losses = {}
            if self.step % self.curriculum.check_every == 0 or done:
                figures = self.check()
                self.say("  check " + " ".join(f"{k} {v:.3f}" for k, v in figures.items()))
                self._log({"step": self.step, "seconds": round(self.trained_seconds, 1), **figures})
            if self.step % self.curriculum.save_every == 0 or done:
                self.save()

    def train_step(self) -> tuple[str, float]:
        """One batch, one update. Returns the task of the batch and its loss."""
        curriculum = self.curriculum
        rng = np.random.default_rng((curriculum.seed, self.step))
        stage, factor = curriculum.at(self.step)
        weights = np.array(list(stage.mix.values()), dtype=float)
        task = str(rng.choice(list(stage.mix), p=weights / weights.sum()))
        family = self._family(task, rng)
        examples = self.examples(task, stage, rng, family=family)
        batch = collate(examples, self.stores[family], pad_token=self.pad)
        self.model.train()
        logits = learned_logits(self.model, batch, augment(batch.frames_F, rng))
        loss = F.cross_entropy(logits, batch.targets_S)
        check_finite([("loss", loss)], where=f"step {self.step + 1}, {task}: the", mend=_MEND)
        loss.backward()
        self.update(muon_lr=stage.muon_lr * factor, adam_lr=stage.adam_lr * factor, vision_factor=stage.vision_factor)
        self.step += 1
        return task, float(loss.detach())

    def update(self, *, muon_lr: float, adam_lr: float, vision_factor: float = 1.0) -> None:
        """Clip the norm of the gradient, update the weights at these rates, clear the gradient.

        Raises:
            NotFinite: a gradient, or a weight after the update, is NaN or infinite.
        """
        for group in self.optimizer.param_groups:
            rate = muon_lr if group["kind"] == "muon" else adam_lr
            group["lr"] = rate * (vision_factor if group["vision"] else 1.0)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        named = list(self.model.named_parameters())
        gradients = [(name, p.grad) for name, p in named if p.grad is not None]
        check_finite(gradients, where=f"step {self.step + 1}: the gradient of", mend=_MEND)
        torch.nn.utils.clip_grad_norm_(parameters, _MAX_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        check_finite(named, where=f"step {self.step + 1}: the weight", mend=_MEND)

    def _family(self, task: str, rng: np.random.Generator) -> str:
        """The tasks of questions draw one; the others use the videos of the first."""
        families = list(self.curriculum.families)
        return families[int(rng.integers(len(families)))] if task in _OF_FAMILIES else families[0]

    def examples(self, task: str, stage: CurriculumStage, rng: np.random.Generator, *, family: str) -> list[Example]:
        """A batch of one task. Several questions share a video, whose frames are then encoded once."""
        writer, store = self._writer(rng), self.stores[family]
        count, share = self.curriculum.batch_sizes[task], self.curriculum.questions_per_video
        if task == "scenes" and stage.glance_frames <= 16:
            count *= 2
        numbers = rng.integers(len(store), size=-(-count // share))
        return [self._example(task, stage, writer, store, int(numbers[i // share]), family) for i in range(count)]

    def _example(
        self, task: str, stage: CurriculumStage, writer: ExampleWriter, store: FrameStore, number: int, family: str
    ) -> Example:
        if task == "recall":
            return tasks.recall(writer)
        rng, stored = writer.rng, store[number]
        if task == "captions":
            return tasks.captions(writer, [stored, *(store[int(n)] for n in rng.integers(len(store), size=7))])
        if task == "letters":
            return tasks.letters(writer, stored)
        if task == "look":
            return tasks.look(writer, stored)
        if task == "scenes":
            return tasks.scenes(writer, stored, max_frames=stage.glance_frames)
        if task == "listing":
            return tasks.listing(writer, stored, max_frames=stage.clip_frames)
        if task == "reading":
            return tasks.reading(
                writer, stored, nothing=self.curriculum.nothing, max_frames=stage.clip_frames, family=family
            )
        if task == "answers":
            return tasks.answers(writer, stored, family=family)
        raise ValueError(f"unknown task {task!r}")

    def _writer(self, rng: np.random.Generator) -> ExampleWriter:
        return ExampleWriter(self.tokenizer, self.curriculum.zoom, side=self.curriculum.side, rng=rng)

    # ------------------------------------------------------------ checks

    @torch.no_grad()
    def check(self) -> dict[str, float]:
        """Per task, on videos never trained on: the share of learned pieces that the model would write greedily."""
        self.model.eval()
        figures = {}
        stage = self.curriculum.stages[-1]
        for task in self.curriculum.checks:
            for family in self.curriculum.families if task in _OF_FAMILIES else list(self.curriculum.families)[:1]:
                writer, store = self._writer(np.random.default_rng(0)), self.check_stores[family]
                examples = [
                    self._example(task, stage, writer, store, n, family)
                    for n in range(min(len(store), 4 * self.curriculum.batch_sizes[task]))
                ]
                batch = collate(examples, store, pad_token=self.pad)
                right = learned_logits(self.model, batch, batch.frames_F).argmax(-1) == batch.targets_S
                wrong_turns = torch.unique(batch.turn_S[~right])
                name = f"{task}_{family}" if task in _OF_FAMILIES else task
                figures[name] = 1 - len(wrong_turns) / len(torch.unique(batch.turn_S))
        return figures

    # ------------------------------------------------------------ state

    def save(self) -> None:
        """Write trainer.pt in one move: a stop in the middle leaves the old one whole."""
        state = {
            "curriculum": repr(self.curriculum),
            "step": self.step,
            "trained_seconds": self.trained_seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        part = self.out / (_STATE + ".part")
        with naming(self.out / _STATE):
            try:
                with part.open("wb") as file:  # torch's own errors about files say no more than a line of C++
                    torch.save(state, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, self.out / _STATE)
            except OSError:
                part.unlink(missing_ok=True)
                raise

    def resume(self) -> None:
        """Continue from trainer.pt.

        Raises:
            ValueError: there is none, it is damaged, or it is of another curriculum.
        """
        path = self.out / _STATE
        if not path.exists():
            raise ValueError(f"nothing to resume: {path} does not exist")
        damaged = f"{path} is damaged"
        mend = f"remove it to pretrain anew in {self.out}, or restore it from a copy"
        check_torch_file(path, mend=mend)
        try:
            state = torch.load(path, weights_only=True)
            held = state["curriculum"]
            if held == repr(self.curriculum):
                self.model.load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.step, self.trained_seconds = int(state["step"]), float(state["trained_seconds"])
        except (RuntimeError, EOFError, LookupError, TypeError, ValueError, pickle.UnpicklingError) as error:
            raise ValueError(f"{damaged} ({' '.join(str(error).split())[:200]}): {mend}") from error
        if held != repr(self.curriculum):
            raise ValueError(
                f"{path} is of another curriculum:\n{held}\nnot\n{self.curriculum!r}\nRemove it, or name another folder"
            )
        named = list(self.model.named_parameters())
        check_finite(named, where=f"{damaged}:", mend=mend)
        names = {parameter: name for name, parameter in named}
        check_finite(named_state(self.optimizer, names), where=f"{damaged}:", mend=mend)

    def _log(self, row: dict[str, Any]) -> None:
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def _optimizer(model: torch.nn.Module) -> MuonWithAdamW:
    """Muon for the matrices, AdamW for the rest; the vision tower, whose rates differ, has groups of its own.

    `update` sets all rates.
    """
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((is_matrix(name, parameter), ".visual." in name), []).append(parameter)
    muon, adamw = {"kind": "muon", "weight_decay": 0.05}, {"kind": "adamw", "weight_decay": 0.0}
    return MuonWithAdamW(
        [
            {"params": parameters, "vision": is_vision, "lr": 0.0, **(muon if is_muon else adamw)}
            for (is_muon, is_vision), parameters in groups.items()
        ]
    )


def pretrain(curriculum: Curriculum, out: Path, *, say: Callable[[str], None] = print) -> Path:
    """Pretrain a model to the end of a curriculum, from where an earlier call stopped.

    Args:
        curriculum: what it learns.
        out: folder of the model, of its log and of the state to resume from.
        say: takes a line of progress.

    Returns:
        `out`, which `vzoom.load` reads.

    Raises:
        ValueError: `out` holds the state of another curriculum, or another process works there.
        NotFinite: a loss, a gradient or a weight is NaN or infinite. (A ValueError.)
    """
    with Lock(out / LOCK) as lock:
        if told := lock.note():
            say(told)
        pretraining = Pretraining(curriculum, out, say=say)
        if (out / _STATE).exists():
            pretraining.resume()
        pretraining.run()
        export(pretraining.model, pretraining.tokenizer, curriculum.zoom, out)
    return out
