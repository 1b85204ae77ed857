"""Which trajectories are on the page, and which of them with frames, if there are too many for all."""

from __future__ import annotations

from itertools import zip_longest

from .load import Group


def pick(group: Group, most: int) -> list[int]:
    """Up to `most` positions in order. Those that show most come first: every combination of outcomes in turn, the
    rare as often as the common, so that a run of right answers does not crowd out its few failures."""
    positions = group.positions
    if len(positions) <= most:
        return positions
    piles: dict[tuple[str, ...], list[int]] = {}
    for position in positions:
        rows = [run.by_position.get(position) for run in group.runs]
        piles.setdefault(tuple(row.prediction.failure if row else "" for row in rows), []).append(position)
    in_turn = [p for layer in zip_longest(*piles.values()) for p in layer if p is not None]
    return sorted(in_turn[:most])
