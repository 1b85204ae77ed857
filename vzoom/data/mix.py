"""Exemplars and reflections as one set for SFT, by a stated ratio, in an order that a seed draws."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .record import Record


def mix(exemplars: Sequence[Record], reflections: Sequence[Record], *, ratio: float, seed: int) -> list[Record]:
    """All exemplars and round(ratio · number of exemplars) of the reflections, shuffled.

    Args:
        exemplars: all are taken.
        reflections: some are drawn.
        ratio: reflections per exemplar.
        seed: of the draw and of the order. The same seed gives the same list.

    Raises:
        ValueError: there are fewer reflections than asked for, or an id is in both.
    """
    if not 0 <= ratio < float("inf"):
        raise ValueError(f"ratio must be 0 or more, got {ratio}")
    wanted = round(ratio * len(exemplars))
    if wanted > len(reflections):
        most = len(reflections) / max(1, len(exemplars))
        raise ValueError(
            f"ratio {ratio:g} of {len(exemplars)} exemplars asks for {wanted} reflections, there are "
            f"{len(reflections)}: make more, or lower the ratio to {most:.3f}"
        )
    if both := {record.id for record in exemplars} & {record.id for record in reflections}:
        raise ValueError(f"{len(both)} ids are in both, {min(both)} among them")
    # random.Random draws the same on every machine; sorted by id, so that the order of files does not matter.
    draw = random.Random(seed)
    chosen = draw.sample(sorted(reflections, key=lambda record: record.id), wanted)
    mixed = [*sorted(exemplars, key=lambda record: record.id), *chosen]
    draw.shuffle(mixed)
    return mixed
