"""The school's stages in full: lessons, trainings, examinations."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...config import ZoomConfig
from ...data import ask_records, read
from ...eval import judge_for
from ..recipes.recipe import Recipe
from .final_eval import SESSIONS, Score, ask_worlds
from .lessons import model_files, shown
from .taught import Taught


@dataclass(frozen=True)
class School(Taught):
    """A recipe at work in a run. Every method is a stage: made once, and found again by the same call."""

    # ------------------------------------------------------------ training

    def sft(self, name: str, *, base: Path | str, data: Path, held_out: Path | None) -> Path:
        def make(folder: Path) -> Sequence[Path]:
            if self.launch:
                self._launched("sft", folder, base, {"--data": data, "--eval-questions": held_out})
            else:
                from ..sft.sft import run_sft

                run_sft(self.recipe, base=base, data=data, out=folder, questions=held_out, say=self.run.say)
            return model_files(folder)

        return self._trained(name, make, {"sft": self.recipe.sft}, base, [data], held_out)

    def grpo(self, name: str, *, base: Path | str, questions: Path, held_out: Path | None) -> Path:
        def make(folder: Path) -> Sequence[Path]:
            if self.launch:
                self._launched("grpo", folder, base, {"--questions": questions, "--eval-questions": held_out})
            else:
                from ..rl.grpo import run_grpo

                run_grpo(
                    self.recipe, base=base, questions=questions, out=folder, eval_questions=held_out, say=self.run.say
                )
            return model_files(folder)

        return self._trained(name, make, {"grpo": self.recipe.grpo}, base, [questions], held_out)

    def _launched(self, stage: str, folder: Path, base: Path | str, options: Mapping[str, Path | None]) -> None:
        """The training as a command of its own, over as many processes as `launch` starts. ValueError if it fails."""
        words = [*self.launch, "-m", "vzoom.train", stage, self.recipe.name, "--base", str(base), "--out", str(folder)]
        words += ["--seed", str(self.recipe.seed)]
        for name, path in options.items():
            words += [] if path is None else [name, str(path)]
        if code := subprocess.run(words, check=False).returncode:
            raise ValueError(f"{' '.join(words)} ended with exit code {code}: run the same command again to go on")

    def _trained(
        self,
        name: str,
        make: Callable[[Path], Sequence[Path]],
        settings: Mapping[str, Any],
        base: Path | str,
        inputs: Sequence[Path],
        held_out: Path | None,
    ) -> Path:
        settings = {**settings, "zoom": self.recipe.zoom, "seed": self.recipe.seed, "base": shown(self.run, base)}
        more = [*inputs, *([] if held_out is None else [held_out])]
        if isinstance(base, Path):
            more += model_files(base)
        return self.run.stage(name, make, settings=settings, inputs=more)

    # ------------------------------------------------------------ examination

    def examine(
        self,
        name: str,
        model: Path,
        *,
        seed: int,
        num_questions: int | None = None,
        max_zooms: int | None = None,
        held_out: Path | None = None,
    ) -> dict[str, list[Score]]:
        """Questions answered greedily by `model` under its own vzoom.json: family -> the score of each question.

        Fresh ones of each family of the world (num_questions: default the recipe's), drawn from `seed`; for a recipe
        without a world those of the folder held_out, as the family "held-out". max_zooms: None is the model's own.
        """
        if self.recipe.world is None:
            inputs = [] if held_out is None else [held_out]
            settings: dict[str, Any] = {"max_zooms": max_zooms}
        else:
            inputs, num_questions = [], num_questions or self.world.eval_questions
            settings = {"num_questions": num_questions, "seed": seed, "max_zooms": max_zooms, **self.world_settings()}

        def make(folder: Path) -> Sequence[Path]:
            import vzoom

            zoomer = vzoom.load(model)
            if self.recipe.world is None:
                some = [] if held_out is None else list(read(held_out))
                found = {}
                if some:
                    judge = judge_for(some)
                    found["held-out"] = ask_records(
                        zoomer, some, judge=judge, max_zooms=max_zooms, max_sessions=SESSIONS
                    )
            else:
                assert num_questions is not None
                films = self.films or self.run.folder / "films"
                found = ask_worlds(
                    zoomer, self.world.worlds, num_questions, seed=seed, max_zooms=max_zooms, films=films
                )
            (folder / "scores.json").write_text(json.dumps(found) + "\n")
            return [folder / "scores.json"]

        folder = self.run.stage(name, make, settings=settings, inputs=[*model_files(model), *inputs])
        scores: dict[str, list[Score]] = json.loads((folder / "scores.json").read_text())
        return scores


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    return replace(recipe, seed=seed)


def uniform(config: ZoomConfig, *, num_frames: int, duration_seconds: float) -> ZoomConfig:
    """The same model without zooms: num_frames uniform frames of a video of this length."""
    return replace(
        config,
        max_zooms=0,
        glance_fps=num_frames / duration_seconds,
        glance_max_frames=num_frames,
        max_frames=max(config.max_frames, num_frames),
    )
