"""Groups that teach something, for one step: roll out, drop those without signal, roll out others in their place.

Dynamic sampling (DAPO, arXiv 2503.14476), as VideoZoomer has it. Groups that a refill brought beyond what was wanted
are dropped and counted: carried over, they would be of an older policy than the step's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...data import Record
from .groups import Group, refill_size, sift
from .rollout import Rolled


@dataclass(frozen=True)
class Filled:
    """kept: groups to train on with their advantages, at most as many as wanted. rolled: all of the step.

    num_flat groups were dropped for equal rewards, num_unjudged for a failed judge (num_failed rollouts in all),
    num_spare because there were enough.
    """

    kept: tuple[tuple[Rolled, tuple[float, ...]], ...]
    rolled: tuple[Rolled, ...]
    num_refills: int
    num_flat: int
    num_unjudged: int
    num_failed: int
    num_spare: int

    @property
    def keep_rate(self) -> float:
        """The fraction of groups that could be used."""
        return (len(self.kept) + self.num_spare) / len(self.rolled)


def fill(
    draw: Callable[[int], Sequence[Record]],
    roll: Callable[[Sequence[Record]], Sequence[Rolled]],
    *,
    wanted: int,
    max_refills: int,
) -> Filled:
    """draw: so many further questions. roll: their rollouts, in order. A step may come out short of groups."""
    rolled: list[Rolled] = []
    num_refills = -1
    size = wanted
    while True:
        rolled += roll(draw(size))
        num_refills += 1
        sifted = sift([Group(i, r.totals) for i, r in enumerate(rolled)], wanted=wanted)
        if not sifted.num_missing or num_refills == max_refills:
            break
        size = refill_size(sifted, largest=wanted)
    kept = tuple((rolled[g.key], tuple(a for a in g.advantages if a is not None)) for g in sifted.kept)
    return Filled(
        kept,
        tuple(rolled),
        num_refills,
        sifted.num_flat,
        sifted.num_unjudged,
        sifted.num_failed,
        len(sifted.spare),
    )
