"""The school's stages that are there before anything is learned: base, questions, held-out, each once in a `Run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...synthetic import write_questions
from ..recipes.recipe import Recipe, WorldLessons
from .run import Run

_RL_FIRST = 100_000  # training videos from here on are RL's alone
_HELD_OUT_FIRST = 500_000  # public videos from here on choose checkpoints; examinations draw theirs from all seeds


@dataclass(frozen=True)
class Lessons:
    """A recipe at work in a run. films: where examinations keep their rendered videos (default: within the run).

    concurrency: conversations with the expert at once. launch: words in front of `-m vzoom.train`, that trainings are
    started by; () trains in this process.
    """

    run: Run
    recipe: Recipe
    films: Path | None = None
    concurrency: int = 4
    launch: tuple[str, ...] = ()

    @property
    def world(self) -> WorldLessons:
        if self.recipe.world is None:
            raise ValueError(f"recipe {self.recipe.name} is of no rendered world: give it a folder of questions")
        return self.recipe.world

    def base(self) -> Path | str:
        """The model that begins: the recipe's own, or for the world one that has learned to see."""
        if self.recipe.world is None:
            return self.recipe.base

        def make(folder: Path) -> Sequence[Path]:
            from ..pretrain.pretrain import pretrain

            pretrain(self.world.curriculum, folder, say=self.run.say)
            return model_files(folder)

        return self.run.stage("base", make, settings={"curriculum": self.world.curriculum})

    def questions(self) -> Path:
        """Rendered training questions of all families, one folder."""

        def make(folder: Path) -> Sequence[Path]:
            for family, config in self.world.worlds.items():
                write_questions(
                    folder,
                    family,
                    self.world.num_videos[family],
                    config,
                    zoom=self.recipe.zoom,
                    questions_per_video=self.world.questions_per_video,
                    fewer_zooms=self.world.fewer_zooms,
                    say=self.run.say,
                )
            return [folder / "questions"]

        folder = self.run.stage(
            "questions", make, settings=self.world_settings("num_videos", fewer_zooms=self.world.fewer_zooms)
        )
        return folder / "questions"

    def rl_questions(self, questions: Path) -> Path:
        """Those that RL asks: of videos that nothing was learned from, or `questions` where the recipe has none."""
        if not self.world.rl_videos:
            return questions

        def make(folder: Path) -> Sequence[Path]:
            for family, number in self.world.rl_videos.items():
                write_questions(
                    folder,
                    family,
                    number,
                    self.world.worlds[family],
                    zoom=self.recipe.zoom,
                    questions_per_video=self.world.questions_per_video,
                    first=_RL_FIRST,
                    say=self.run.say,
                )
            return [folder / "questions"]

        return self.run.stage("rl-questions", make, settings=self.world_settings("rl_videos")) / "questions"

    def held_out(self) -> Path:
        """Questions that choose the best checkpoint: neither trained on nor examined."""
        num_questions = max(self.recipe.sft.eval_questions, self.recipe.grpo.eval_questions, 1)

        def make(folder: Path) -> Sequence[Path]:
            per_family = -(-num_questions // len(self.world.worlds))
            for family, config in self.world.worlds.items():
                write_questions(
                    folder,
                    family,
                    per_family,
                    config,
                    zoom=self.recipe.zoom,
                    first=_HELD_OUT_FIRST,
                    namespace="public",
                    say=self.run.say,
                )
            return [folder / "questions"]

        settings = {"num_questions": num_questions, **self.world_settings()}
        return self.run.stage("held-out", make, settings=settings) / "questions"

    def world_settings(self, *names: str, **more: Any) -> dict[str, Any]:
        worlds = {family: asdict(config) for family, config in self.world.worlds.items()}
        return {"worlds": worlds, "zoom": self.recipe.zoom, **{n: dict(getattr(self.world, n)) for n in names}, **more}


def model_files(folder: Path) -> list[Path]:
    """What decides a model's behaviour: weights, configs and tokenizer, not what training left beside them."""
    files = sorted(p for p in folder.glob("*") if p.suffix == ".safetensors" or p.name in _DECISIVE)
    if not any(p.suffix == ".safetensors" for p in files):
        raise ValueError(f"{folder} holds no weights")
    return files


_DECISIVE = ("config.json", "vzoom.json", "tokenizer.json", "preprocessor_config.json")


def shown(run: Run, model: Path | str) -> str:
    """A model by its place in the run, so that the run may be moved; or its hub id."""
    if isinstance(model, str):
        return model
    return model.name if model.is_relative_to(run.folder) else model.parent.name + "/" + model.name
