"""How well a finished model does: fresh synthetic questions, answered greedily."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...synthetic import SyntheticConfig, ask_synthetic

if TYPE_CHECKING:
    from ...zoomer import Zoomer

Score = dict[str, float]
SESSIONS = 32


def ask_worlds(
    zoomer: Zoomer,
    worlds: Mapping[str, SyntheticConfig],
    num_questions: int,
    *,
    seed: int,
    max_zooms: int | None = None,
    films: Path | None = None,
) -> dict[str, list[Score]]:
    """num_questions fresh questions of each family: family -> the `synthetic.score` of each.

    films: where rendered videos are kept for the next evaluation.
    """
    return {
        family: ask_synthetic(
            zoomer,
            family,
            num_questions,
            seed,
            max_zooms=max_zooms,
            config=config,
            cache_dir=films,
            max_sessions=SESSIONS,
        )
        for family, config in worlds.items()
    }
