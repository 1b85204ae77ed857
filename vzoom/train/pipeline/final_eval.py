"""How well a finished model does: it answers fresh questions about rendered videos, or held-out records, greedily."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...data import ask_records, read, read_json, write_json
from ...eval import interval, judge_for
from ...synthetic import ask_synthetic
from .stages import PipelineContext, model_files, synthetic_settings

QuestionScore = dict[str, float]
_MAX_SESSIONS = 32


def final_eval(
    context: PipelineContext,
    name: str,
    model: Path,
    *,
    seed: int,
    num_questions: int | None = None,
    max_zooms: int | None = None,
    eval_questions: Path | None = None,
) -> dict[str, list[QuestionScore]]:
    """A stage: a model answers questions greedily, under its own vzoom.json.

    Args:
        context: of the pipeline.
        name: of the stage.
        model: its folder.
        seed: of the fresh questions.
        num_questions: fresh questions per family; None takes the recipe's.
        max_zooms: zooms allowed; None takes the model's own limit.
        eval_questions: folder of the questions, for a recipe that renders none.

    Returns:
        Family of questions -> the scores of each question. A recipe that renders none has the family "held-out".
    """
    synthetic = context.recipe.synthetic
    inputs: list[Path] = []
    settings: dict[str, Any] = {"max_zooms": max_zooms}
    if synthetic is not None:
        num_questions = num_questions or synthetic.eval_questions
        settings |= synthetic_settings(context, num_questions=num_questions, seed=seed)
    elif eval_questions is not None:
        inputs = [eval_questions]

    def make(folder: Path) -> Sequence[Path]:
        import vzoom

        zoomer = vzoom.load(model)
        found: dict[str, list[QuestionScore]] = {}
        if synthetic is not None:
            assert num_questions is not None
            for family, config in synthetic.configs.items():
                found[family] = ask_synthetic(
                    zoomer,
                    family,
                    num_questions,
                    seed,
                    max_zooms=max_zooms,
                    config=config,
                    cache_dir=context.videos or context.store.folder / "videos",
                    max_sessions=_MAX_SESSIONS,
                )
        elif eval_questions is not None:
            records = list(read(eval_questions))
            found["held-out"] = ask_records(
                zoomer, records, judge=judge_for(records), max_zooms=max_zooms, max_sessions=_MAX_SESSIONS
            )
        write_json(folder / "scores.json", found)
        return [folder / "scores.json"]

    folder = context.store.stage(name, make, settings=settings, inputs=[*model_files(model), *inputs])
    mend = f"remove {folder} and its entry in the manifest, and the stage is made again"
    scores: dict[str, list[QuestionScore]] = read_json(folder / "scores.json", mend=mend)
    return scores


def summarize(scores: Sequence[QuestionScore]) -> dict[str, Any]:
    """n, accuracy and its 95 % interval, mean zooms and mean frames of some questions."""
    found = interval([[s["accuracy"] for s in scores]])
    return {
        "n": len(scores),
        "accuracy": round(found.mean, 4),
        "interval": [round(found.low, 4), round(found.high, 4)],
        "zooms": round(sum(s["mean_zooms"] for s in scores) / len(scores), 3),
        "frames": round(sum(s["mean_frames"] for s in scores) / len(scores), 2),
    }
