"""The pretraining loop: batches from the recipe's mix, one loss, checks on held-out videos, checkpoints to go on from.

Every step draws from its own generator (seed, step), so a run that was stopped and resumed sees the same batches.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..common.optim import MuonWithAdamW, is_matrix
from .curriculum import Curriculum, Stage
from .example import Example
from .export import export
from .forward import augment, collate, learned_logits
from .frame_store import FrameBank
from .model import build_model
from .tasks import Builder
from .tokenizer import build_tokenizer

_STATE = "trainer.pt"
_MAX_NORM = 1.0
_OF_FAMILIES = ("listing", "reading", "answers")


class Pretraining:
    """One run. `out`: folder for trainer.pt (to resume) and log.jsonl."""

    def __init__(self, recipe: Curriculum, out: Path, *, say: Callable[[str], None] = print) -> None:
        self.recipe, self.out, self.say = recipe, out, say
        self.tokenizer = build_tokenizer()
        self.model: Any = build_model(self.tokenizer, recipe.shape, seed=recipe.seed)
        self.optimizer = _optimizer(self.model)
        first, side = recipe.check_videos, recipe.side
        self.banks = {
            family: FrameBank(world, side=side, first=first, count=recipe.num_videos)
            for family, world in recipe.families.items()
        }
        self.check_banks = {
            family: FrameBank(world, side=side, first=0, count=first) for family, world in recipe.families.items()
        }
        self.pad = self.tokenizer.convert_tokens_to_ids("<|endoftext|>")
        self.step = 0
        self.trained_seconds = 0.0

    # ------------------------------------------------------------ running

    def run(self, *, minutes: float | None = None) -> bool:
        """Train to the recipe's end, or for `minutes`. True when the end was reached."""
        self.out.mkdir(parents=True, exist_ok=True)
        started, before, first_step = time.perf_counter(), self.trained_seconds, self.step
        losses: dict[str, list[float]] = {}
        while self.step < self.recipe.num_steps:
            elapsed = time.perf_counter() - started
            if minutes is not None and elapsed > 60 * minutes:
                self.save()
                return False
            kind, loss = self.train_step()
            losses.setdefault(kind, []).append(loss)
            self.trained_seconds = before + time.perf_counter() - started
            done = self.step == self.recipe.num_steps
            if self.step % 10 == 0 or done:
                pace = (time.perf_counter() - started) / (self.step - first_step)
                stage, factor = self.recipe.at(self.step - 1)
                means = {name: round(float(np.mean(values)), 4) for name, values in sorted(losses.items())}
                self.say(
                    f"step {self.step}/{self.recipe.num_steps} {stage.name} "
                    f"loss {' '.join(f'{name} {value:.3f}' for name, value in means.items())} lr x{factor:.2f} "
                    f"{pace:.2f} s/step, {pace * (self.recipe.num_steps - self.step) / 60:.1f} min left"
                )
                self._log({"step": self.step, "stage": stage.name, "loss": means})
                losses = {}
            if self.step % self.recipe.check_every == 0 or done:
                figures = self.check()
                self.say("  check " + " ".join(f"{k} {v:.3f}" for k, v in figures.items()))
                self._log({"step": self.step, "seconds": round(self.trained_seconds, 1), **figures})
            if self.step % self.recipe.save_every == 0 or done:
                self.save()
        return True

    def train_step(self) -> tuple[str, float]:
        """One batch, one update. Returns the kind of batch and its loss."""
        recipe = self.recipe
        rng = np.random.default_rng((recipe.seed, self.step))
        stage, factor = recipe.at(self.step)
        weights = np.array(list(stage.mix.values()), dtype=float)
        kind = str(rng.choice(list(stage.mix), p=weights / weights.sum()))
        family = self._family(kind, rng)
        examples = self.examples(kind, stage, rng, family=family)
        batch = collate(examples, self.banks[family], pad_token=self.pad)
        self.model.train()
        logits = learned_logits(self.model, batch, augment(batch.frames_F, rng))
        loss = F.cross_entropy(logits, batch.targets_S)
        loss.backward()
        self.update(muon_lr=stage.muon_lr * factor, adam_lr=stage.adam_lr * factor, vision_factor=stage.vision_factor)
        self.step += 1
        return kind, float(loss.detach())

    def update(self, *, muon_lr: float, adam_lr: float, vision_factor: float = 1.0) -> None:
        """Clip the gradient's norm, step at these rates, clear."""
        for group in self.optimizer.param_groups:
            rate = muon_lr if group["kind"] == "muon" else adam_lr
            group["lr"] = rate * (vision_factor if group["vision"] else 1.0)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, _MAX_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _family(self, kind: str, rng: np.random.Generator) -> str:
        """Only what is read and answered differs between families; all else is seen in the first one's world."""
        families = list(self.recipe.families)
        return families[int(rng.integers(len(families)))] if kind in _OF_FAMILIES else families[0]

    def examples(self, kind: str, stage: Stage, rng: np.random.Generator, *, family: str) -> list[Example]:
        """A batch of one kind; several questions share a video, so its frames are encoded once."""
        builder, bank = self._builder(rng), self.banks[family]
        count, share = self.recipe.batch_sizes[kind], self.recipe.questions_per_video
        if kind == "scenes" and stage.glance_frames <= 16:
            count *= 2
        numbers = rng.integers(len(bank), size=-(-count // share))
        return [self._example(kind, stage, builder, bank, int(numbers[i // share]), family) for i in range(count)]

    def _example(self, kind: str, stage: Stage, builder: Builder, bank: FrameBank, number: int, family: str) -> Example:
        if kind == "recall":
            return builder.recall()
        rng, banked = builder.rng, bank[number]
        if kind == "captions":
            return builder.captions([banked, *(bank[int(n)] for n in rng.integers(len(bank), size=7))])
        if kind == "letters":
            return builder.letters(banked)
        if kind == "look":
            return builder.look(banked)
        if kind == "scenes":
            return builder.scenes(banked, max_frames=stage.glance_frames)
        if kind == "listing":
            return builder.listing(banked, max_frames=stage.clip_frames)
        if kind == "reading":
            return builder.reading(banked, nothing=self.recipe.nothing, max_frames=stage.clip_frames, family=family)
        if kind == "answers":
            return builder.answers(banked, family=family)
        raise ValueError(f"unknown kind of drill {kind!r}")

    def _builder(self, rng: np.random.Generator) -> Builder:
        return Builder(self.tokenizer, self.recipe.zoom, side=self.recipe.side, rng=rng)

    # ------------------------------------------------------------ checks

    @torch.no_grad()
    def check(self) -> dict[str, float]:
        """Per kind, on videos never trained on: the share of turns that it would write greedily as the oracle."""
        self.model.eval()
        figures = {}
        stage = self.recipe.stages[-1]
        for kind in self.recipe.checks:
            for family in self.recipe.families if kind in _OF_FAMILIES else list(self.recipe.families)[:1]:
                builder, bank = self._builder(np.random.default_rng(0)), self.check_banks[family]
                examples = [
                    self._example(kind, stage, builder, bank, n, family)
                    for n in range(min(len(bank), 4 * self.recipe.batch_sizes[kind]))
                ]
                batch = collate(examples, bank, pad_token=self.pad)
                right = learned_logits(self.model, batch, batch.frames_F).argmax(-1) == batch.targets_S
                wrong_turns = torch.unique(batch.turn_S[~right])
                name = f"{kind}_{family}" if kind in _OF_FAMILIES else kind
                figures[name] = 1 - len(wrong_turns) / len(torch.unique(batch.turn_S))
        return figures

    # ------------------------------------------------------------ state

    def save(self) -> None:
        """Write trainer.pt in one move, so a stop in the middle leaves the old one whole."""
        state = {
            "recipe": repr(self.recipe),
            "step": self.step,
            "trained_seconds": self.trained_seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        part = self.out / (_STATE + ".part")
        torch.save(state, part)
        os.replace(part, self.out / _STATE)

    def resume(self) -> None:
        """Go on from trainer.pt. ValueError where it is missing or of another recipe."""
        path = self.out / _STATE
        if not path.exists():
            raise ValueError(f"nothing to resume: {path} does not exist")
        state = torch.load(path, weights_only=True)
        if state["recipe"] != repr(self.recipe):
            raise ValueError(f"{path} is of another recipe:\n{state['recipe']}\nnot\n{self.recipe!r}")
        if "optimizer" not in state:
            raise ValueError(f"{path} was written by an earlier version of vzoom: remove it to begin anew")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.trained_seconds = state["step"], state["trained_seconds"]

    def _log(self, row: dict[str, Any]) -> None:
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def _optimizer(model: torch.nn.Module) -> MuonWithAdamW:
    """The vision tower has groups of its own ("vision"), as its rate is another one; `update` sets all rates."""
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
    """Run a curriculum to its end, from where it stopped before, and write what `vzoom.load` reads. Returns `out`."""
    run = Pretraining(curriculum, out, say=say)
    if (out / _STATE).exists():
        run.resume()
    run.run()
    export(run.model, run.tokenizer, curriculum.zoom, out)
    return out
