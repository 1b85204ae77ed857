"""How well a finished model does: it answers fresh questions about rendered videos, or held-out records, greedily."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data import Record, read
from ...eval import JudgeFailed, interval, judge_for
from ...synthetic import ask_world
from ..rl.reward import is_right
from ..rl.rollout import reference_of
from .stages import PipelineContext, model_files, synthetic_settings

if TYPE_CHECKING:
    from ...zoomer import Zoomer

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
                found[family] = ask_world(
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
            found["held-out"] = ask_records(zoomer, list(read(eval_questions)), max_zooms=max_zooms)
        (folder / "scores.json").write_text(json.dumps(found) + "\n")
        return [folder / "scores.json"]

    folder = context.store.stage(name, make, settings=settings, inputs=[*model_files(model), *inputs])
    scores: dict[str, list[QuestionScore]] = json.loads((folder / "scores.json").read_text())
    return scores


def ask_records(zoomer: Zoomer, records: Sequence[Record], *, max_zooms: int | None = None) -> list[QuestionScore]:
    """Ask the questions of records.

    Args:
        zoomer: answers greedily.
        records: without turns, each with a reference answer.
        max_zooms: zooms allowed; None takes the model's own limit.

    Returns:
        Per record: accuracy, answered, mean_zooms and mean_frames.

    Raises:
        ValueError: the judge of open answers failed. A figure without some of its questions is another figure.
    """
    judge = judge_for(records)
    results = zoomer.ask_many(
        [(r.video.path, r.question) for r in records], max_zooms=max_zooms, max_sessions=_MAX_SESSIONS
    )
    scores: list[QuestionScore] = []
    for record, result in zip(records, results, strict=True):
        right = is_right(result.answer, reference_of(record), judge=judge)
        if isinstance(right, JudgeFailed):
            raise ValueError(f"the judge gave no verdict on {record.id}: {right.reason}")
        scores.append(
            {
                "accuracy": float(right),
                "answered": float(result.answer is not None),
                "mean_zooms": float(len(result.trajectory.zooms)),
                "mean_frames": float(result.trajectory.num_frames),
            }
        )
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
