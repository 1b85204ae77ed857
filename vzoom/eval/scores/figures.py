"""What a run's rows come to: its scores, failures counted, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..item import Headline, Verdict, VerdictKind
from ..runs.store import Prediction, PredictionRow
from .failures import Failure
from .intervals import Estimate
from .scoring import ItemVerdict, Scores, score_run


@dataclass(frozen=True)
class Figures:
    """What a run came to. Means are over the items that were asked, all conversations of an item together.

    Args:
        scores: accuracy, in all and by group.
        failures: items by `Failure`.
        frames: mean per item; so are zooms, tokens, tokens_sampled, gflops, kv_mib and conversations.
        zoom_rate: the share of items with a zoom.
        seconds: wall time per item, in which the conversations of a batch overlap.
    """

    scores: Scores
    failures: dict[str, int]
    frames: float
    zooms: float
    zoom_rate: float
    tokens: float
    tokens_sampled: float
    gflops: float
    kv_mib: float
    seconds: float
    conversations: float

    @property
    def accuracy(self) -> Estimate | None:
        """As the benchmark's authors average it; None if nothing was scored."""
        return self.scores.headline

    @property
    def total(self) -> int:
        return self.scores.overall.num_items

    @property
    def scored(self) -> int:
        return self.scores.overall.num_scored

    def to_json(self) -> dict[str, Any]:
        estimate = self.accuracy
        return {
            "accuracy": None if estimate is None else round(estimate.mean, 4),
            "interval": None if estimate is None else [round(estimate.low, 4), round(estimate.high, 4)],
            "scored": self.scored,
            "total": self.total,
            "verdicts": dict(self.scores.overall.counts),
            "failures": self.failures,
            **{name: round(getattr(self, name), 4) for name in _MEANS},
        }


_MEANS = (
    "frames", "zooms", "zoom_rate", "tokens", "tokens_sampled", "gflops", "kv_mib", "seconds", "conversations",
)  # fmt: skip


def figures_of(rows: Sequence[PredictionRow], *, headline: Headline = "items") -> Figures:
    """The figures of a run.

    Args:
        rows: all that the run holds.
        headline: of the benchmark: what its authors average.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("a run without predictions has no figures")
    asked = [row for row in rows if row.prediction.conversations]

    def mean(value: Callable[[Prediction], float]) -> float:
        return sum(value(row.prediction) for row in asked) / len(asked) if asked else 0.0

    found = Counter(row.prediction.failure for row in rows)
    return Figures(
        scores=score_run(item_verdicts(rows), headline=headline),
        failures={str(kind): found[kind] for kind in Failure},
        frames=mean(lambda p: p.frames),
        zooms=mean(lambda p: p.zooms),
        zoom_rate=mean(lambda p: float(p.zooms > 0)),
        tokens=mean(lambda p: p.tokens_prefilled + p.tokens_sampled),
        tokens_sampled=mean(lambda p: p.tokens_sampled),
        gflops=mean(lambda p: p.flops / 1e9),
        kv_mib=mean(lambda p: p.kv_bytes / 2**20),
        seconds=sum(seconds_of(row) for row in asked) / len(asked) if asked else 0.0,
        conversations=mean(lambda p: p.conversations),
    )


def item_verdicts(rows: Sequence[PredictionRow]) -> list[ItemVerdict]:
    """The verdicts of a run's rows, with what they are grouped by."""
    return [ItemVerdict.of(row.item, verdict_of(row)) for row in rows]


def verdict_of(row: PredictionRow) -> Verdict:
    """The verdict as it was given."""
    kind: VerdictKind = row.prediction.verdict  # type: ignore[assignment]  # Verdict checks it
    return Verdict(kind, row.prediction.said, row.prediction.detail, row.parts)


def seconds_of(row: PredictionRow) -> float:
    """Wall seconds of all stages."""
    timing = row.timing
    return (timing.decode + timing.patches + timing.vision + timing.prefill + timing.generate) / 1e3
