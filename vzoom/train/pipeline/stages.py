"""The stages of the pipeline, as functions. Each makes its folder once; the same call finds it again.

A stage takes the folders of earlier stages and returns its own, so `pipeline.py` shows what depends on what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

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
from ...synthetic import OracleServer, write_questions
from ...video import ClipCache
from ..launch import run_launched
from ..recipes.recipe import Recipe, SyntheticData
from .stage_store import StageStore

_RL_FIRST = 100_000  # only RL uses the training videos from this number on
_HELD_OUT_FIRST = 500_000  # public videos from this number on choose checkpoints; evaluations draw from all seeds
_EXPERT = "VZOOM_EXPERT"
_REPLY_TOKENS = 4096
_MAX_SESSIONS = 32  # of the student's rollouts
_MODEL_FILES = ("config.json", "vzoom.json", "tokenizer.json", "preprocessor_config.json")


@dataclass(frozen=True)
class PipelineContext:
    """What every stage needs.

    Args:
        store: remembers the stages.
        recipe: what is trained, and how.
        videos: where evaluations keep their rendered videos; None is a folder of the store.
        concurrency: conversations with the expert at once.
        launch: the words that start `-m vzoom.train …` for SFT and GRPO (`launch.launcher`); () trains in this process.
    """

    store: StageStore
    recipe: Recipe
    videos: Path | None = None
    concurrency: int = 4
    launch: tuple[str, ...] = ()

    @property
    def synthetic(self) -> SyntheticData:
        """The recipe's rendered videos. ValueError if it has none."""
        if self.recipe.synthetic is None:
            raise ValueError(f"recipe {self.recipe.name} renders no videos: give it a folder of questions")
        return self.recipe.synthetic


# ---------------------------------------------------------------- before anything is learned


def make_base(context: PipelineContext) -> Path | str:
    """The model to begin with: the recipe's own, or one that is pretrained here.

    Returns:
        A folder, or a hub id.
    """
    if context.recipe.synthetic is None:
        return context.recipe.base
    curriculum = context.synthetic.curriculum

    def make(folder: Path) -> Sequence[Path]:
        from ..pretrain.pretrain import pretrain

        pretrain(curriculum, folder, say=context.store.say)
        return model_files(folder)

    return context.store.stage("base", make, settings={"curriculum": curriculum})


def render_questions(context: PipelineContext) -> Path:
    """Rendered training videos of all families, and a folder of questions about them."""
    synthetic = context.synthetic
    return _rendered(
        context,
        "questions",
        synthetic.num_videos,
        settings=synthetic_settings(context, num_videos=synthetic.num_videos, fewer_zooms=synthetic.fewer_zooms),
        questions_per_video=synthetic.questions_per_video,
        fewer_zooms=synthetic.fewer_zooms,
    )


def render_rl_questions(context: PipelineContext, questions: Path) -> Path:
    """The questions that RL asks: about videos that nothing was learned from, or `questions` if the recipe has none."""
    synthetic = context.synthetic
    if not synthetic.rl_videos:
        return questions
    return _rendered(
        context,
        "rl-questions",
        synthetic.rl_videos,
        settings=synthetic_settings(context, rl_videos=synthetic.rl_videos),
        questions_per_video=synthetic.questions_per_video,
        first=_RL_FIRST,
    )


def render_held_out(context: PipelineContext) -> Path:
    """The questions that choose the best checkpoint: neither training nor the final evaluation asks them."""
    recipe, families = context.recipe, list(context.synthetic.configs)
    num_questions = max(recipe.sft.eval_questions, recipe.grpo.eval_questions, 1)
    return _rendered(
        context,
        "held-out",
        dict.fromkeys(families, -(-num_questions // len(families))),
        settings=synthetic_settings(context, num_questions=num_questions),
        first=_HELD_OUT_FIRST,
        namespace="public",
    )


def _rendered(
    context: PipelineContext, name: str, num_videos: Mapping[str, int], *, settings: Mapping[str, Any], **options: Any
) -> Path:
    """A stage of questions about videos of each family; options: of `write_questions`."""

    def make(folder: Path) -> Sequence[Path]:
        for family, number in num_videos.items():
            config = context.synthetic.configs[family]
            write_questions(folder, family, number, config, zoom=context.recipe.zoom, say=context.store.say, **options)
        return [folder / "questions"]

    return context.store.stage(name, make, settings=settings) / "questions"


def synthetic_settings(context: PipelineContext, **more: Any) -> dict[str, Any]:
    """What decides how videos look and how conversations about them are held, for a stage's settings."""
    configs = {family: asdict(config) for family, config in context.synthetic.configs.items()}
    return {"configs": configs, "zoom": context.recipe.zoom, **more}


# ---------------------------------------------------------------- conversations to learn from


def distill_exemplars(context: PipelineContext, questions: Path, *, model: Path | str) -> Path:
    """The expert's right conversations about the first questions.

    Args:
        context: of the pipeline.
        questions: folder of records.
        model: whose vocabulary the records are for.

    Returns:
        A folder of records with turns.

    Raises:
        ValueError: no conversation was kept, or the expert stopped answering.
    """
    count = context.recipe.synthetic.exemplars if context.recipe.synthetic else None

    def make(folder: Path) -> Sequence[Path]:
        asked = _first(list(read(questions)), count)
        factory = EpisodeFactory(load_vocabulary(str(model)), load_patch_spec(str(model)), ClipCache())
        with _expert(context, folder, asked) as (expert, verify):
            found = distill(
                asked,
                folder,
                factory=factory,
                expert=expert,
                verify=verify,
                concurrency=context.concurrency,
                say=EveryTenth(context.store.say),
            )
        if not found.kept:
            raise ValueError(f"of {found.items} conversations none was kept: {found.rejected or found.passed}")
        return _kept(folder, found)

    settings = {"count": count, "model": _name_of(context, model)}
    return context.store.stage("exemplars", make, settings=settings, inputs=[questions]) / "kept"


def collect_reflections(context: PipelineContext, questions: Path, *, student: Path) -> Path:
    """The student's wrong conversations with a zoom, corrected by the expert.

    Args:
        context: of the pipeline.
        questions: folder of records that the student is asked.
        student: folder of a model.

    Returns:
        A folder of records with turns; empty if the student made no such mistake.

    Raises:
        ValueError: the expert stopped answering.
    """
    import vzoom

    part = context.recipe.reflection

    def make(folder: Path) -> Sequence[Path]:
        asked = list(read(questions))
        zoomer = vzoom.load(student)
        replies = ReplyCache(folder / "rollouts.jsonl")
        try:
            rollouts = roll_out(
                zoomer,
                asked,
                replies,
                num_rollouts=part.rollouts,
                temperature=part.temperature,
                seed=context.recipe.seed,
                max_sessions=_MAX_SESSIONS,
                say=EveryTenth(context.store.say),
            )
        finally:
            replies.close()
        checkpoint = zoomer.info
        factory = EpisodeFactory(vocabulary_of(checkpoint), checkpoint.patch_spec, zoomer.clip_cache)
        with _expert(context, folder, asked) as (expert, verify):
            found = reflect(
                asked,
                rollouts,
                folder,
                factory=factory,
                expert=expert,
                verify=verify,
                concurrency=context.concurrency,
                say=EveryTenth(context.store.say),
            )
        return _kept(folder, found)

    settings = {"reflection": part, "seed": context.recipe.seed}
    inputs = [questions, *model_files(student)]
    return context.store.stage("reflections", make, settings=settings, inputs=inputs) / "kept"


def mix_data(context: PipelineContext, exemplars: Path, reflections: Path) -> Path:
    """Exemplars and reflections by the recipe's ratio, or all reflections if there are fewer.

    Returns:
        A folder of records with turns.
    """
    wanted, seed = context.recipe.reflection.ratio, context.recipe.seed

    def make(folder: Path) -> Sequence[Path]:
        some = list(read(exemplars))
        more = list(read(reflections)) if shards(reflections) else []
        ratio = min(wanted, len(more) / len(some))
        if ratio < wanted:
            context.store.say(
                f"  {len(more)} reflections for {len(some)} exemplars: a ratio of {ratio:.3f}, not {wanted:g}"
            )
        with Writer(folder / "records") as writer:
            for record in mix(some, more, ratio=ratio, seed=seed):
                if record.id not in writer.ids:
                    writer.add(record)
        return [folder / "records"]

    settings = {"ratio": wanted, "seed": seed}
    return context.store.stage("mixed", make, settings=settings, inputs=[exemplars, reflections]) / "records"


@contextmanager
def _expert(context: PipelineContext, folder: Path, questions: Sequence[Record]) -> Iterator[tuple[Expert, Verifier]]:
    """The scripted expert of rendered videos, which is asked as every expert is; or that of the environment."""
    with ExitStack() as stack:
        replies = ReplyCache(folder / "replies.jsonl")
        stack.callback(replies.close)
        if context.recipe.synthetic is None:
            endpoints = endpoints_from_environment(_EXPERT)
        else:
            server = stack.enter_context(OracleServer(dict(context.synthetic.configs), context.recipe.zoom))
            endpoints = (Endpoint(server.url, "oracle"),)
        chat = Chat(endpoints, concurrency=context.concurrency)
        verify = Verifier(replies, judge_for(questions))
        yield Expert(chat, replies, temperature=0.0, max_tokens=_REPLY_TOKENS), verify


def _first(questions: list[Record], count: int | None) -> list[Record]:
    """The first `count`, taken from the families by turns; all of them in their order if count is None."""
    if count is None:
        return questions
    by_family: dict[str, list[Record]] = {}
    for question in questions:
        by_family.setdefault(question.id.partition("-")[0], []).append(question)
    turns = [(rank, name, q) for name, some in by_family.items() for rank, q in enumerate(some)]
    turns.sort(key=lambda turn: turn[:2])
    return [question for _, _, question in islice(turns, count)]


def _kept(folder: Path, found: CollectSummary) -> Sequence[Path]:
    """What distillation or reflection made. ValueError if it stopped early."""
    if found.stopped is not None:
        raise ValueError(f"{folder} is not finished: {found.stopped}. Run the same command again to resume")
    write_summary(folder / "summary.json", found)
    return [folder / "kept"]


# ---------------------------------------------------------------- training


def train_sft(
    context: PipelineContext, name: str, *, base: Path | str, data: Path, eval_questions: Path | None
) -> Path:
    """A model that learned from conversations.

    Args:
        context: of the pipeline.
        name: of the stage.
        base: the model to begin with, a folder or a hub id.
        data: folder of records with turns.
        eval_questions: folder of held-out questions that choose the best checkpoint; None keeps the last.

    Returns:
        The model's folder.
    """

    def make(folder: Path) -> Sequence[Path]:
        if context.launch:
            options = {"--base": base, "--out": folder, "--data": data, "--eval-questions": eval_questions}
            run_launched(context.launch, "sft", context.recipe.name, {**options, "--seed": context.recipe.seed})
        else:
            from ..sft.sft import run_sft

            run_sft(
                context.recipe, base=base, data=data, out=folder, eval_questions=eval_questions, say=context.store.say
            )
        return model_files(folder)

    return _trained(context, name, make, {"sft": context.recipe.sft}, base, [data], eval_questions)


def train_grpo(
    context: PipelineContext, name: str, *, base: Path | str, questions: Path, eval_questions: Path | None
) -> Path:
    """A model that learned from the rewards of its own rollouts.

    Args:
        context: of the pipeline.
        name: of the stage.
        base: the model to begin with, a folder or a hub id.
        questions: folder of records that it is asked.
        eval_questions: folder of held-out questions that choose the best checkpoint; None keeps the last.

    Returns:
        The model's folder.
    """

    def make(folder: Path) -> Sequence[Path]:
        if context.launch:
            options = {"--base": base, "--out": folder, "--questions": questions, "--eval-questions": eval_questions}
            run_launched(context.launch, "grpo", context.recipe.name, {**options, "--seed": context.recipe.seed})
        else:
            from ..rl.grpo import run_grpo

            run_grpo(
                context.recipe,
                base=base,
                questions=questions,
                out=folder,
                eval_questions=eval_questions,
                say=context.store.say,
            )
        return model_files(folder)

    return _trained(context, name, make, {"grpo": context.recipe.grpo}, base, [questions], eval_questions)


def _trained(
    context: PipelineContext,
    name: str,
    make: Callable[[Path], Sequence[Path]],
    settings: Mapping[str, Any],
    base: Path | str,
    inputs: Sequence[Path],
    eval_questions: Path | None,
) -> Path:
    recipe = context.recipe
    settings = {**settings, "zoom": recipe.zoom, "seed": recipe.seed, "base": _name_of(context, base)}
    more = [*inputs, *([] if eval_questions is None else [eval_questions])]
    if isinstance(base, Path):
        more += model_files(base)
    return context.store.stage(name, make, settings=settings, inputs=more)


def model_files(folder: Path) -> list[Path]:
    """The files that decide how a model behaves: weights, configs, tokenizer; not what training left beside them.

    Raises:
        ValueError: the folder holds no weights.
    """
    files = sorted(p for p in folder.glob("*") if p.suffix == ".safetensors" or p.name in _MODEL_FILES)
    if not any(p.suffix == ".safetensors" for p in files):
        raise ValueError(f"{folder} holds no weights")
    return files


def _name_of(context: PipelineContext, model: Path | str) -> str:
    """A model by its place in the store, so that the store may be moved; or its hub id."""
    if isinstance(model, str):
        return model
    return model.name if model.is_relative_to(context.store.folder) else f"{model.parent.name}/{model.name}"
