"""Incremental M-RoPE: the 3-D positions of the next tokens from one integer a sequence.

`next` is the position that the next text token gets on all three axes (time, row, column). It is absolute and
belongs to the sequence; transformers keeps a `rope_deltas` on the model instead, which two interleaved sessions
corrupt for each other. Source of the rules: Qwen2-VL (arXiv 2409.12191, section 2.1) and, for the fractional time
step, Qwen2.5-VL (arXiv 2502.13923, section 2.1.1).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from .tokenize import Run

RopeRule = Literal["max", "hf523"]


def text_positions(start: int, count: int) -> tuple[np.ndarray, int]:
    """`count` text tokens: int64 [3, count] and the new `next`."""
    return np.broadcast_to(np.arange(start, start + count, dtype=np.int64), (3, count)), start + count


def image_positions(start: int, rows: int, columns: int) -> tuple[np.ndarray, int]:
    """An image of rows x columns merged patches: int64 [3, rows * columns] and the new `next`."""
    return video_positions(start, (1, rows, columns), time_step=1.0)


def video_positions(
    start: int, grid_thw: tuple[int, int, int], *, time_step: float, rule: RopeRule = "max"
) -> tuple[np.ndarray, int]:
    """A video block of T x rows x columns merged patches: int64 [3, T * rows * columns] and the new `next`.

    time_step: positions between two temporal grids; 1 for Qwen2-VL, tokens_per_second * second_per_grid for
    Qwen2.5-VL. The product k * time_step is taken in float32 and then floored, as transformers does.
    rule: "max" continues behind the largest position used; "hf523" repeats transformers 5.23, which continues at
    max(rows, columns) and lets text overlap a long video in time. For T = 1 the two agree.
    """
    frames, rows, columns = grid_thw
    times = np.floor(np.arange(frames, dtype=np.float32) * np.float32(time_step)).astype(np.int64)
    t, y, x = np.meshgrid(times, np.arange(rows), np.arange(columns), indexing="ij")
    positions = np.stack([t, y, x]).reshape(3, -1) + start
    extent = max(rows, columns) if rule == "hf523" else max(int(times[-1]) + 1, rows, columns)
    return positions, start + extent


def run_positions(start: int, run: Run, merge: int) -> tuple[np.ndarray, int]:
    """Positions of a whole run of text and images, int64 [3, len(run.ids)], and the new `next`."""
    pieces, done = [], 0
    for _, offset, (h, w) in run.images:
        text, start = text_positions(start, offset - done)
        image, start = image_positions(start, h // merge, w // merge)
        pieces += [text, image]
        done = offset + image.shape[1]
    text, start = text_positions(start, len(run.ids) - done)
    return np.concatenate([*pieces, text], axis=1), start
