"""The whole training in one command, from a base to a model that knows where to look.

Every stage is made once and remembered (`stage_store.py`); the same command resumes where it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...data import shards, write_json
from ..packages import check_packages
from ..recipes.recipe import Recipe
from ..rl.trl_adapter import trainer_class
from .final_eval import final_eval, summarize
from .stage_store import StageStore
from .stages import (
    PipelineContext,
    collect_reflections,
    distill_exemplars,
    make_base,
    mix_data,
    render_held_out,
    render_questions,
    render_rl_questions,
    train_grpo,
    train_sft,
)

RESULTS = "results.json"
_EVAL_SEED = 7  # of the final evaluation's questions
_TRAINED = ("exemplars", "sft-exemplars", "reflections", "mixed", "sft", "grpo", "eval-sft", "eval-grpo")


def run_pipeline(
    recipe: Recipe,
    out: Path,
    *,
    questions: Path | None = None,
    eval_questions: Path | None = None,
    launch: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a model by a recipe, and evaluate it.

    Args:
        recipe: what is trained, and how.
        out: folder of results, one folder in it per stage; out/grpo is the finished model.
        questions: folder of records to train on, for a recipe that renders none of its own.
        eval_questions: folder of held-out records that choose the best checkpoint and evaluate the model.
        launch: the words that start `-m vzoom.train …` for SFT and GRPO, of `launch.launcher`; () trains in this
            process.
        say: takes a line of progress.

    Returns:
        Model -> family of questions -> n, accuracy, interval, zooms, frames; also in out/results.json.

    Raises:
        ValueError: arguments that do not fit together, a stage that was made from other settings, or a stage that
            failed.
        ImportError: a package that a later stage needs is not installed.
    """
    _check(recipe, questions, eval_questions)
    with StageStore(out, planned=stage_names(recipe), say=say) as store:
        done = len(store.manifest.keys() & set(store.planned))
        say(f"{recipe.name}: {len(store.planned)} stages in {out}, {done} of them done")
        context = PipelineContext(store, recipe, launch=tuple(launch))

        base = make_base(context)
        if questions is None:
            questions, eval_questions = render_questions(context), render_held_out(context)
            rl_questions = render_rl_questions(context, questions)
        else:
            rl_questions = questions
        exemplars = distill_exemplars(context, questions, model=base)
        student = train_sft(context, "sft-exemplars", base=base, data=exemplars, eval_questions=eval_questions)
        reflections = collect_reflections(context, questions, student=student)
        data = mix_data(context, exemplars, reflections)
        sft = train_sft(context, "sft", base=base, data=data, eval_questions=eval_questions)
        model = train_grpo(context, "grpo", base=sft, questions=rl_questions, eval_questions=eval_questions)

        results: dict[str, Any] = {}
        for name, trained in (("sft", sft), ("grpo", model)):
            found = final_eval(context, f"eval-{name}", trained, seed=_EVAL_SEED, eval_questions=eval_questions)
            results[name] = {family: summarize(scores) for family, scores in found.items()}
            for family, row in results[name].items():
                say(f"  {name}, {family}: accuracy {row['accuracy']:.3f} {row['interval']}, {row['n']} questions")
        write_json(out / RESULTS, results)
        say(f"{model} is the finished model; {store.cpu_seconds / 3600:.2f} CPU hours in all")
        return results


def stage_names(recipe: Recipe) -> list[str]:
    """The stages of a recipe, in the order in which they are made."""
    synthetic = recipe.synthetic
    if synthetic is None:
        return list(_TRAINED)
    rendered = ["base", "questions", "held-out", *(["rl-questions"] if synthetic.rl_videos else [])]
    return [*rendered, *_TRAINED]


def _check(recipe: Recipe, questions: Path | None, eval_questions: Path | None) -> None:
    """All that can be seen before hours of work: ValueError or ImportError."""
    if recipe.synthetic is not None and (questions or eval_questions):
        raise ValueError(f"recipe {recipe.name} renders its own questions: leave --questions and --eval-questions out")
    if recipe.synthetic is None and questions is None:
        raise ValueError(f"recipe {recipe.name} needs --questions: a folder of records (`vzoom data import rl`)")
    for option, folder in (("--questions", questions), ("--eval-questions", eval_questions)):
        if folder is not None and not (folder.exists() and shards(folder)):
            raise ValueError(f"{option} {folder} holds no records: make them by `vzoom data import rl`")
    check_packages(recipe)
    trainer_class()  # refuses a TRL that GRPO does not fit
