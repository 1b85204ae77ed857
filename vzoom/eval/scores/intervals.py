"""95 % intervals by the bootstrap (Efron 1979): over questions, and over training runs if there are several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_CHUNK = 500  # resamples drawn at once


@dataclass(frozen=True)
class Estimate:
    """mean, and the interval [low, high] that holds 95 % of the resampled means."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(groups: Sequence[Sequence[float]], *, seed: int = 0, resamples: int = 10_000) -> Estimate:
    """The mean of the groups' means, with its interval.

    Two levels: runs are drawn with replacement, and within each run its questions. With one group this is the plain
    bootstrap over questions.

    Args:
        groups: one per training run; its values are one per question.
        seed: of the draws.
        resamples: how many are drawn.

    Raises:
        ValueError: there is no group, or an empty one.
    """
    values = [np.asarray(group, dtype=float) for group in groups]
    if not values or any(len(v) == 0 for v in values):
        raise ValueError(f"an interval needs values in every group, got {[len(v) for v in values]} values")
    rng = np.random.default_rng(seed)
    means: list[np.ndarray] = []
    for begin in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - begin)
        # The mean of a resampled group, for each group that may be drawn, as often as it may be drawn.
        drawn = np.stack(
            [v[rng.integers(len(v), size=(count, len(values), len(v)))].mean(-1) for v in values], axis=-1
        )  # [count, draws, groups]
        pick = rng.integers(len(values), size=(count, len(values), 1))
        means.append(np.take_along_axis(drawn, pick, -1)[..., 0].mean(-1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Estimate(float(np.mean([v.mean() for v in values])), float(low), float(high))
