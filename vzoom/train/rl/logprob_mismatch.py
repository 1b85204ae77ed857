"""Whether the trainer gives the sampled tokens the probabilities that the engine gave them.

Both run the same weights, so they differ by rounding alone, unless something is wrong: positions, frames, a mask, the
weights themselves. Importance weights would hide that, so the run stops and says where the largest difference is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ...protocol import Vocabulary
from ..common.samples import Sample


class LogprobMismatchError(RuntimeError):
    """Engine and trainer do not agree on what was sampled."""


@dataclass(frozen=True)
class LogprobMismatch:
    """Differences |engine − trainer| of log-probabilities over `count` tokens. worst: the largest, and where it is."""

    total: float = 0.0
    count: int = 0
    worst: float = 0.0
    where: str = ""

    @property
    def mean(self) -> float:
        return self.total / max(1, self.count)

    @classmethod
    def sum(cls, parts: Iterable[LogprobMismatch]) -> LogprobMismatch:
        """All of them as one."""
        parts = list(parts)
        worst = max(parts, key=lambda part: part.worst, default=cls())
        return cls(sum(p.total for p in parts), sum(p.count for p in parts), worst.worst, worst.where)

    def check(self, limit: float) -> None:
        """Check that the mean is at most `limit`.

        Raises:
            LogprobMismatchError: it is above, or no number.
        """
        if not self.mean <= limit:
            raise LogprobMismatchError(
                f"the engine's and the trainer's log-probabilities of {self.count} sampled tokens differ by "
                f"{self.mean:.3g} on average, {limit:g} is allowed; most in {self.where}. Positions, frames, masks or "
                "weights of the two are not the same; max_logprob_mismatch may only be raised if their dtypes differ"
            )


def mismatch_of(sample: Sample, trainer_N: np.ndarray, vocabulary: Vocabulary) -> LogprobMismatch:
    """Compare one rollout.

    Args:
        sample: has the engine's log-probabilities.
        trainer_N: the trainer's, of the sample's sampled tokens, in order.
        vocabulary: to name the token where they differ most.
    """
    at_N = np.flatnonzero(sample.sampled)
    if len(trainer_N) != len(at_N):
        raise ValueError(f"conversation {sample.id}: {len(trainer_N)} log-probabilities for {len(at_N)} tokens")
    if not len(at_N):
        return LogprobMismatch()
    engine_N = engine_logprobs(sample)[at_N]
    differences_N = np.abs(engine_N.astype(np.float64) - trainer_N)
    differences_N[np.isnan(differences_N)] = np.inf  # a trainer that gives no number is as wrong as can be
    n = int(differences_N.argmax())
    starts = np.flatnonzero(np.diff(at_N, prepend=at_N[0] - 2) > 1)  # the sampled tokens of a turn are consecutive
    turn = int(np.searchsorted(starts, n, side="right"))
    text = vocabulary.codec.decode([int(sample.ids[at_N[n]])], special=True)
    where = (
        f"{sample.id}, turn {turn}, its token {n - int(starts[turn - 1]) + 1}, {text!r} at {at_N[n]} of {len(sample)}: "
        f"engine {engine_N[n]:.4f}, trainer {trainer_N[n]:.4f}"
    )
    return LogprobMismatch(float(differences_N.sum()), len(differences_N), float(differences_N[n]), where)


def engine_logprobs(sample: Sample) -> np.ndarray:
    """The engine's log-probabilities, [T].

    Raises:
        ValueError: our engine did not sample it.
    """
    if sample.logprobs is None:
        raise ValueError(f"conversation {sample.id} was not sampled by an engine of ours: nothing to compare with")
    return sample.logprobs
