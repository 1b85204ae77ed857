"""The school's stages that make what is learned from: base, questions, exemplars, reflections, each once in a `Run`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..chat import Chat, Endpoint, endpoints_from_environment
from ..data.distill import Table, distill
from ..data.expert import Expert, Verifier
from ..data.harvest import Harvest, write_summary
from ..data.ledger import Ledger
from ..data.mix import mix
from ..data.record import Record
from ..data.reflect import reflect
from ..data.rollouts import roll_out
from ..data.store import Writer, read, shards
from ..data.vocabulary import load_patch_spec, load_vocabulary, vocabulary_of
from ..protocol import render_turn
from ..types import Answer
from ..video import ClipCache
from ..world.dataset import facts_of, write_questions
from ..world.oracle import next_turn
from ..world.oracle_server import OracleServer
from .judge import judge_for
from .recipe import Recipe, WorldLessons
from .run import Run

_HELD_OUT_FIRST = 500_000  # public videos from here on choose checkpoints; examinations draw theirs from all seeds
_EXPERT = "VZOOM_EXPERT"
_REPLY_TOKENS = 4096


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

    # ------------------------------------------------------------ what is given

    def base(self) -> Path | str:
        """The model that begins: the recipe's own, or for the world one that has learned to see."""
        if self.recipe.world is None:
            return self.recipe.base

        def make(folder: Path) -> Sequence[Path]:
            from .tiny.pretrain import pretrain

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

    # ------------------------------------------------------------ data

    def exemplars(self, questions: Path, *, model: Path | str) -> Path:
        """The expert's trajectories on the first questions, for the vocabulary of `model`."""
        count = self.recipe.world.exemplars if self.recipe.world else None

        def make(folder: Path) -> Sequence[Path]:
            asked = _spread(list(read(questions)), count)
            table = Table(load_vocabulary(str(model)), load_patch_spec(str(model)), ClipCache())
            with self._expert(folder, asked) as (expert, verify):
                found = distill(
                    asked,
                    folder,
                    table=table,
                    expert=expert,
                    verify=verify,
                    concurrency=self.concurrency,
                    say=_Tenths(self.run.say),
                )
                if not found.kept:
                    raise ValueError(f"of {found.items} conversations none was kept: {found.rejected or found.passed}")
                return _kept(folder, found)

        settings = {"count": count, "model": shown(self.run, model)}
        return self.run.stage("exemplars", make, settings=settings, inputs=[questions]) / "kept"

    def reflections(self, questions: Path, *, student: Path) -> Path:
        """The student's wrong conversations with a zoom, corrected by the expert; none where it has made no such."""
        import vzoom

        part = self.recipe.reflection

        def make(folder: Path) -> Sequence[Path]:
            asked = list(read(questions))
            zoomer = vzoom.load(student)
            rollouts_ledger = Ledger(folder / "rollouts.jsonl")
            try:
                rollouts = roll_out(
                    zoomer,
                    asked,
                    rollouts_ledger,
                    num_rollouts=part.rollouts,
                    temperature=part.temperature,
                    seed=self.recipe.seed,
                    max_sessions=32,
                    say=_Tenths(self.run.say),
                )
            finally:
                rollouts_ledger.close()
            checkpoint = zoomer.checkpoint
            table = Table(vocabulary_of(checkpoint), checkpoint.patch_spec, zoomer.clip_cache)
            with self._expert(folder, asked) as (expert, verify):
                found = reflect(
                    asked,
                    rollouts,
                    folder,
                    table=table,
                    expert=expert,
                    verify=verify,
                    concurrency=self.concurrency,
                    say=_Tenths(self.run.say),
                )
                return _kept(folder, found)

        settings = {"reflection": part, "seed": self.recipe.seed}
        inputs = [questions, *model_files(student)]
        return self.run.stage("reflections", make, settings=settings, inputs=inputs) / "kept"

    def mixed(self, exemplars: Path, reflections: Path) -> Path:
        """Both by the recipe's ratio; all reflections where there are fewer than it asks for, which is said."""

        def make(folder: Path) -> Sequence[Path]:
            some, more = list(read(exemplars)), list(read(reflections)) if shards(reflections) else []
            ratio = min(self.recipe.reflection.ratio, len(more) / len(some))
            if ratio < self.recipe.reflection.ratio:
                self.run.say(
                    f"  {len(more)} reflections for {len(some)} exemplars: a ratio of {ratio:.3f}, "
                    f"not {self.recipe.reflection.ratio:g}"
                )
            with Writer(folder / "records") as writer:
                for record in mix(some, more, ratio=ratio, seed=self.recipe.seed):
                    if record.id not in writer.ids:
                        writer.add(record)
            return [folder / "records"]

        settings = {"ratio": self.recipe.reflection.ratio, "seed": self.recipe.seed}
        return self.run.stage("mixed", make, settings=settings, inputs=[exemplars, reflections]) / "records"

    def answers(self, name: str, exemplars: Path, *, model: Path | str) -> Path:
        """The questions of `exemplars` under the recipe's zoom config, answered rightly and at once: the data of a
        model that never zooms. Its thought says what the glance shows, and nothing else."""

        def make(folder: Path) -> Sequence[Path]:
            table = Table(load_vocabulary(str(model)), load_patch_spec(str(model)), ClipCache())
            with Writer(folder / "records") as writer:
                for record in read(exemplars):
                    if record.id in writer.ids:
                        continue
                    video, question = facts_of(record.id, self.world.worlds)
                    rng = np.random.default_rng(0)
                    turn = next_turn(video, question, self.recipe.zoom, (), zooms_left=0, rng=rng)
                    bare = replace(record, config=self.recipe.zoom, glance_seconds=(), turns=(), stop_reason=None)
                    play = table.open(bare)
                    play.say(render_turn(turn.thought, Answer(question.answer_letter)), "oracle")
                    writer.add(play.record(record.id))
            return [folder / "records"]

        settings = {"zoom": self.recipe.zoom, "model": shown(self.run, model)}
        return self.run.stage(name, make, settings=settings, inputs=[exemplars]) / "records"

    # ------------------------------------------------------------ inside

    def world_settings(self, *names: str, **more: Any) -> dict[str, Any]:
        worlds = {family: asdict(config) for family, config in self.world.worlds.items()}
        return {"worlds": worlds, "zoom": self.recipe.zoom, **{n: dict(getattr(self.world, n)) for n in names}, **more}

    @contextmanager
    def _expert(self, folder: Path, questions: Sequence[Record]) -> Iterator[tuple[Expert, Verifier]]:
        """The world's scripted teacher, asked by the protocol that every expert is asked by; or the environment's."""
        with ExitStack() as stack:
            ledger = Ledger(folder / "replies.jsonl")
            stack.callback(ledger.close)
            if self.recipe.world is None:
                endpoints = endpoints_from_environment(_EXPERT)
            else:
                server = stack.enter_context(OracleServer(dict(self.world.worlds), self.recipe.zoom))
                endpoints = (Endpoint(server.url, "oracle"),)
            chat = Chat(endpoints, concurrency=self.concurrency)
            verify = Verifier(ledger, judge_for(questions))
            yield Expert(chat, ledger, temperature=0.0, max_tokens=_REPLY_TOKENS), verify


def _spread(questions: list[Record], count: int | None) -> list[Record]:
    """The first `count` of a list in which the families take turns; all in their order where count is None."""
    if count is None:
        return questions
    by_family: dict[str, list[Record]] = {}
    for question in questions:
        by_family.setdefault(question.id.partition("-")[0], []).append(question)
    turns = [(rank, name, q) for name, some in by_family.items() for rank, q in enumerate(some)]
    turns.sort(key=lambda turn: turn[:2])
    return [question for _, _, question in islice(turns, count)]


def _kept(folder: Path, found: Harvest) -> Sequence[Path]:
    """What distillation or reflection left. ValueError where it stopped early."""
    if found.stopped is not None:
        raise ValueError(f"{folder} is not finished: {found.stopped}. Run the same command again to go on")
    write_summary(folder / "summary.json", found)
    return [folder / "kept"]


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


class _Tenths:
    """Progress lines of a long list: one every tenth part of the way."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._tenth = say, -1

    def __call__(self, done: int, total: int, line: str) -> None:
        if (tenth := done * 10 // total) != self._tenth:
            self._tenth = tenth
            self._say(f"  {done}/{total}: {line}")
