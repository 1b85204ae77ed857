"""Which rollouts of a step make up which update and which micro-batch, the same for any number of processes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EMPTY = -1  # a place that no rollout fills: a step came out short of groups


def plan_micro_batches(
    lengths: Sequence[int],
    *,
    num_places: int,
    num_updates: int,
    micro_batch_size: int,
    seed: Sequence[int],
    block: int = 1,
) -> list[list[list[int]]]:
    """Deal rollouts to updates and micro-batches.

    Rollouts are dealt to the updates at random, and sorted by length within an update, so that little of a micro-batch
    is padding. Processes take every size-th micro-batch of an update (`ProcessGroup.shard`), which are then of like
    lengths.

    Args:
        lengths: tokens of each rollout.
        num_places: of all micro-batches together, at least as many as rollouts.
        num_updates: of the step.
        micro_batch_size: rollouts per micro-batch.
        seed: of the dealing.
        block: so many neighbouring rollouts stay together.

    Returns:
        Numbers of rollouts by update and micro-batch; places beyond len(lengths) are EMPTY.
    """
    if num_places // num_updates % block or len(lengths) % block:
        raise ValueError(f"{num_places // num_updates} rollouts per update do not hold whole questions of {block}")
    if len(lengths) > num_places or num_places % (num_updates * micro_batch_size):
        raise ValueError(
            f"{len(lengths)} rollouts, {num_places} places in {num_updates} updates of micro-batches of "
            f"{micro_batch_size} do not go together"
        )
    order = np.random.default_rng(list(seed)).permutation(len(lengths) // block).tolist()
    # Every update gets its share of what there is, and of what is missing.
    updates: list[list[int]] = [order[i::num_updates] for i in range(num_updates)]
    size = num_places // num_updates

    def rows_of(number: int) -> list[int]:
        return sorted(range(number * block, (number + 1) * block), key=lambda row: (-lengths[row], row))

    planned = []
    for blocks in updates:
        blocks = sorted(blocks, key=lambda b: (-lengths[rows_of(b)[0]], b))
        rows = [row for b in blocks for row in rows_of(b)]
        rows += [EMPTY] * (size - len(rows))
        planned.append([rows[i : i + micro_batch_size] for i in range(0, size, micro_batch_size)])
    return planned
