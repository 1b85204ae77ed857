"""Which of Pillow's two passes runs first, found out by asking the Pillow that is installed.

Pillow 11 and 12 always run the horizontal pass first; 13 runs the vertical one first for some sizes. The rounding
between the passes makes the orders differ by a level here and there, so each new pair of sizes is resized once
by Pillow and once by each order until they agree. A few milliseconds per pair of sizes and process.
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
import PIL
from PIL import Image

from .reference import Step, resize
from .weights import Filter

_PILLOW = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


def likely_vertical_first(old_hw: tuple[int, int], new_hw: tuple[int, int]) -> bool:
    """Guess the order by Pillow 13's rule, as inferred from 552 pairs of sizes. It is only tried first.

    Args:
        old_hw: height and width in pixels.
        new_hw: the same after the resize.

    Returns:
        Whether the vertical pass probably runs first.
    """
    shrink_h, shrink_w = old_hw[0] - new_hw[0], old_hw[1] - new_hw[1]
    return int(PIL.__version__.split(".")[0]) >= 13 and shrink_h > 0 and shrink_h > 2 * shrink_w


@lru_cache(maxsize=256)
def pillow_step(old_hw: tuple[int, int], new_hw: tuple[int, int], filter_name: Filter) -> Step:
    """Make a resize whose order of passes makes it equal to that of the installed Pillow.

    Warns if neither order does.

    Args:
        old_hw: height and width in pixels.
        new_hw: the same after the resize.
        filter_name: "bicubic" or "lanczos".

    Returns:
        The step.
    """
    guess = likely_vertical_first(old_hw, new_hw)
    if old_hw[0] == new_hw[0] or old_hw[1] == new_hw[1]:
        return Step(*new_hw, filter_name, guess)  # one pass at most: there is no order
    # Gray: the order goes by the sizes alone, and a frame of 4K would take 50 MB more in colour.
    probe = np.random.default_rng(0).integers(0, 256, old_hw, dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(probe).resize(new_hw[::-1], resample=_PILLOW[filter_name]))
    for vertical_first in (guess, not guess):
        step = Step(*new_hw, filter_name, vertical_first)
        if np.array_equal(resize(probe[None, :, :, None], step)[0, :, :, 0], wanted):
            return step
    warnings.warn(
        f"Pillow {PIL.__version__} resizes {old_hw} to {new_hw} in a way that vzoom does not know: patches may differ "
        "from Hugging Face's by a level; Pillow 11 to 13 are known to agree",
        stacklevel=2,
    )
    return Step(*new_hw, filter_name, guess)
