"""How well a finished model does: fresh questions of the world, or records that were held out, answered greedily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...data import Record
from ...eval import JudgeFailed, judge_for
from ...synthetic import WorldConfig, ask_world
from ..rl.reward import is_right, reference_of

if TYPE_CHECKING:
    from ...zoomer import Zoomer

Score = dict[str, float]
_SESSIONS = 32


def ask_worlds(
    zoomer: Zoomer,
    worlds: Mapping[str, WorldConfig],
    num_questions: int,
    *,
    seed: int,
    max_zooms: int | None = None,
    films: Path | None = None,
) -> dict[str, list[Score]]:
    """num_questions fresh questions of each family: family -> the `world.evaluate.score` of each.

    films: where rendered videos are kept for the next examination.
    """
    return {
        family: ask_world(
            zoomer,
            family,
            num_questions,
            seed,
            max_zooms=max_zooms,
            config=config,
            cache_dir=films,
            max_sessions=_SESSIONS,
        )
        for family, config in worlds.items()
    }


def ask_records(zoomer: Zoomer, records: Sequence[Record], *, max_zooms: int | None = None) -> list[Score]:
    """Records without turns, answered greedily: accuracy, answered, mean_zooms and mean_frames of each.

    ValueError where the judge of open answers fails: a figure without some of its questions is another figure.
    """
    judge = judge_for(records)
    results = zoomer.ask_many(
        [(r.video.path, r.question) for r in records], max_zooms=max_zooms, max_sessions=_SESSIONS
    )
    scores: list[Score] = []
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
