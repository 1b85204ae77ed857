"""The school's stages that make conversations to learn from: exemplars, reflections and what is mixed of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from ...chat import Chat, Endpoint, endpoints_from_environment
from ...data import (
    CollectSummary,
    EpisodeFactory,
    EveryTenth,
    Expert,
    Record,
    ReplyCache,
    Verifier,
    Writer,
    distill,
    mix,
    read,
    reflect,
    roll_out,
    shards,
    write_summary,
)
from ...eval import judge_for
from ...models import load_patch_spec, load_vocabulary, vocabulary_of
from ...protocol import render_turn
from ...synthetic import OracleServer, facts_of, next_turn
from ...types import Answer
from ...video import ClipCache
from .lessons import Lessons, model_files, shown

_EXPERT = "VZOOM_EXPERT"
_REPLY_TOKENS = 4096


@dataclass(frozen=True)
class Taught(Lessons):
    """With an expert that plays, and corrects a student."""

    def exemplars(self, questions: Path, *, model: Path | str) -> Path:
        """The expert's trajectories on the first questions, for the vocabulary of `model`."""
        count = self.recipe.world.exemplars if self.recipe.world else None

        def make(folder: Path) -> Sequence[Path]:
            asked = _spread(list(read(questions)), count)
            factory = EpisodeFactory(load_vocabulary(str(model)), load_patch_spec(str(model)), ClipCache())
            with self._expert(folder, asked) as (expert, verify):
                found = distill(
                    asked,
                    folder,
                    factory=factory,
                    expert=expert,
                    verify=verify,
                    concurrency=self.concurrency,
                    say=EveryTenth(self.run.say),
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
            rollout_cache = ReplyCache(folder / "rollouts.jsonl")
            try:
                rollouts = roll_out(
                    zoomer,
                    asked,
                    rollout_cache,
                    num_rollouts=part.rollouts,
                    temperature=part.temperature,
                    seed=self.recipe.seed,
                    max_sessions=32,
                    say=EveryTenth(self.run.say),
                )
            finally:
                rollout_cache.close()
            checkpoint = zoomer.checkpoint
            factory = EpisodeFactory(vocabulary_of(checkpoint), checkpoint.patch_spec, zoomer.clip_cache)
            with self._expert(folder, asked) as (expert, verify):
                found = reflect(
                    asked,
                    rollouts,
                    folder,
                    factory=factory,
                    expert=expert,
                    verify=verify,
                    concurrency=self.concurrency,
                    say=EveryTenth(self.run.say),
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
            factory = EpisodeFactory(load_vocabulary(str(model)), load_patch_spec(str(model)), ClipCache())
            with Writer(folder / "records") as writer:
                for record in read(exemplars):
                    if record.id in writer.ids:
                        continue
                    video, question = facts_of(record.id, self.world.worlds)
                    rng = np.random.default_rng(0)
                    turn = next_turn(video, question, self.recipe.zoom, (), zooms_left=0, rng=rng)
                    bare = replace(record, config=self.recipe.zoom, glance_seconds=(), turns=(), stop_reason=None)
                    episode = factory.open(bare)
                    episode.say(render_turn(turn.thought, Answer(question.answer_letter)), "oracle")
                    writer.add(episode.record(record.id))
            return [folder / "records"]

        settings = {"zoom": self.recipe.zoom, "model": shown(self.run, model)}
        return self.run.stage(name, make, settings=settings, inputs=[exemplars]) / "records"

    @contextmanager
    def _expert(self, folder: Path, questions: Sequence[Record]) -> Iterator[tuple[Expert, Verifier]]:
        """The world's scripted teacher, asked by the protocol that every expert is asked by; or the environment's."""
        with ExitStack() as stack:
            cache = ReplyCache(folder / "replies.jsonl")
            stack.callback(cache.close)
            if self.recipe.world is None:
                endpoints = endpoints_from_environment(_EXPERT)
            else:
                server = stack.enter_context(OracleServer(dict(self.world.worlds), self.recipe.zoom))
                endpoints = (Endpoint(server.url, "oracle"),)
            chat = Chat(endpoints, concurrency=self.concurrency)
            verify = Verifier(cache, judge_for(questions))
            yield Expert(chat, cache, temperature=0.0, max_tokens=_REPLY_TOKENS), verify


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


def _kept(folder: Path, found: CollectSummary) -> Sequence[Path]:
    """What distillation or reflection left. ValueError where it stopped early."""
    if found.stopped is not None:
        raise ValueError(f"{folder} is not finished: {found.stopped}. Run the same command again to go on")
    write_summary(folder / "summary.json", found)
    return [folder / "kept"]
