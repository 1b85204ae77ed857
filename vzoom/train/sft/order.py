"""In which order SFT sees its data: a function of the recipe, the seed and the data, not of the number of processes."""

from __future__ import annotations

import numpy as np

from ..recipes.recipe import SFTRecipe


def num_updates(part: SFTRecipe, num_samples: int) -> int:
    """Updates of a run: `epochs` passes over the data, rounded to whole batches, at least one."""
    return max(1, round(part.epochs * num_samples / part.batch_size))


def order(part: SFTRecipe, lengths: np.ndarray, *, seed: int) -> list[int]:
    """Which sample is seen when: one pass after the other, each in a random order of its own.

    Within an update the longest samples come first, so that the rows of a micro-batch, and the processes'
    micro-batches, are of like lengths.

    Args:
        part: the recipe's.
        lengths: tokens of each sample, [N].
        seed: the recipe's.

    Returns:
        Numbers of samples, [updates * batch_size].
    """
    total = num_updates(part, len(lengths)) * part.batch_size
    passes = [
        np.random.default_rng([seed, number]).permutation(len(lengths)) for number in range(-(-total // len(lengths)))
    ]
    drawn = np.concatenate(passes)[:total].reshape(-1, part.batch_size)
    longest_first = np.argsort(-lengths[drawn], axis=1, kind="stable")
    return [int(i) for i in np.take_along_axis(drawn, longest_first, axis=1).ravel()]
