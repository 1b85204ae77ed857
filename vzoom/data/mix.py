"""Exemplars and reflections as one set for SFT, by a stated ratio, in an order that a seed draws."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .record import Record


def mix(exemplars: Sequence[Record], reflections: Sequence[Record], *, ratio: float, seed: int) -> list[Record]:
    """All exemplars and round(ratio · number of exemplars) of the reflections, shuffled. The same for the same seed.

    ratio: reflections for each exemplar. ValueError where there are fewer reflections than that, or an id is in both.
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
    # random.Random's sample and shuffle give the same on every machine; by id, so that the order of files is nothing.
    draw = random.Random(seed)
    chosen = draw.sample(sorted(reflections, key=lambda record: record.id), wanted)
    mixed = [*sorted(exemplars, key=lambda record: record.id), *chosen]
    draw.shuffle(mixed)
    return mixed
