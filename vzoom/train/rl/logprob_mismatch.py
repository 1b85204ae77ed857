"""Whether the trainer gives the sampled tokens the probabilities that the sampler gave them.

Both run the same weights, so they differ by rounding alone, unless something is wrong: positions, frames, a mask, the
weights themselves. Importance weights would hide that, so the run stops and says where the largest difference is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...protocol import Vocabulary
from ..common.samples import Sample


class ParityError(RuntimeError):
    """Sampler and trainer do not agree on what was sampled."""


@dataclass(frozen=True)
class Gap:
    """Differences |sampler − trainer| of log-probabilities over `count` tokens. worst: the largest, and where it is."""

    total: float = 0.0
    count: int = 0
    worst: float = 0.0
    where: str = ""

    @property
    def mean(self) -> float:
        return self.total / max(1, self.count)


def gap_of(sample: Sample, trainer_N: np.ndarray, vocabulary: Vocabulary) -> Gap:
    """trainer_N: the trainer's log-probabilities of the sample's sampled tokens, in order."""
    at_N = np.flatnonzero(sample.sampled)
    if len(trainer_N) != len(at_N):
        raise ValueError(f"conversation {sample.id}: {len(trainer_N)} log-probabilities for {len(at_N)} tokens")
    if not len(at_N):
        return Gap()
    sampler_N = logprobs_of(sample)[at_N]
    gaps_N = np.abs(sampler_N.astype(np.float64) - trainer_N)
    gaps_N[np.isnan(gaps_N)] = np.inf  # a trainer that gives no number is as wrong as can be
    n = int(gaps_N.argmax())
    starts = np.flatnonzero(np.diff(at_N, prepend=at_N[0] - 2) > 1)  # a turn is one run of sampled tokens
    turn = int(np.searchsorted(starts, n, side="right"))
    text = vocabulary.tokenizer.decode([int(sample.ids[at_N[n]])])
    where = (
        f"{sample.id}, turn {turn}, its token {n - int(starts[turn - 1]) + 1}, {text!r} at {at_N[n]} of {len(sample)}: "
        f"sampler {sampler_N[n]:.4f}, trainer {trainer_N[n]:.4f}"
    )
    return Gap(float(gaps_N.sum()), len(gaps_N), float(gaps_N[n]), where)


def logprobs_of(sample: Sample) -> np.ndarray:
    """The sampler's, [T]. ValueError where no engine of ours sampled it."""
    if sample.logprobs is None:
        raise ValueError(f"conversation {sample.id} was not sampled by an engine of ours: nothing to compare with")
    return sample.logprobs


def total(gaps: Iterable[Gap]) -> Gap:
    """All of them as one."""
    gaps = list(gaps)
    worst = max(gaps, key=lambda gap: gap.worst, default=Gap())
    return Gap(sum(g.total for g in gaps), sum(g.count for g in gaps), worst.worst, worst.where)


def check(gap: Gap, limit: float) -> None:
    """ParityError where the mean is above `limit`."""
    if not gap.mean <= limit:
        raise ParityError(
            f"the sampler's and the trainer's log-probabilities of {gap.count} sampled tokens differ by {gap.mean:.3g} "
            f"on average, {limit:g} is allowed; most in {gap.where}. Positions, frames, masks or weights of the two "
            "are not the same; parity_limit may only be raised where their dtypes differ"
        )


def compact(samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Where the sampled tokens of each sample are, int64 [B, N] filled up with 0, and which of these count, bool."""
    at = [np.flatnonzero(sample.sampled) for sample in samples]
    width = max(map(len, at))
    index_BN = np.zeros((len(at), width), np.int64)
    mask_BN = np.zeros((len(at), width), bool)
    for row, own in enumerate(at):
        index_BN[row, : len(own)] = own
        mask_BN[row, : len(own)] = True
    return index_BN, mask_BN
