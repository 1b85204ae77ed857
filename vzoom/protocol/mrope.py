"""Incremental M-RoPE: the 3-D positions of the next tokens, computed from one integer per sequence.

`next` is the position that the next text token gets on all three axes (time, row, column). It is absolute and
belongs to the sequence; transformers keeps a `rope_deltas` on the model instead, which two interleaved sessions
corrupt for each other. Sources of the rules: Qwen2-VL (arXiv 2409.12191, section 2.1); for the time axis of videos
Qwen2.5-VL (arXiv 2502.13923, section 2.1.2) and `get_rope_index` of transformers.
"""

from __future__ import annotations

import numpy as np

from .definition import RopeRule
from .tokenize import TokenSpan
from .vocabulary import VideoTokens


def text_positions(start: int, count: int) -> tuple[np.ndarray, int]:
    """Positions of text tokens: all three axes count up together.

    Args:
        start: `next` before these tokens.
        count: number of tokens.

    Returns:
        Positions, int64 [3, count], and `next` after them.
    """
    return np.broadcast_to(np.arange(start, start + count, dtype=np.int64), (3, count)), start + count


def block_positions(
    start: int, grid: tuple[int, int, int], *, step: float = 1.0, rule: RopeRule = "max"
) -> tuple[np.ndarray, int]:
    """Positions of a vision block: rows and columns counted up from `start`, and time patch by patch.

    Args:
        start: `next` before the block.
        grid: (temporal patches, rows, columns), rows and columns of merged patches.
        step: how far the time axis moves from one temporal patch to the next. The product with the patch's number is
            one of float32, rounded down, as transformers has it.
        rule: "max": `next` is the largest position used, plus one. "hf523": the time axis does not count for it.

    Returns:
        Positions, int64 [3, patches * rows * columns], and `next` after them.
    """
    patches, rows, columns = grid
    times = (np.arange(patches, dtype=np.float32) * np.float32(step)).astype(np.int64)
    t, y, x = np.meshgrid(times, np.arange(rows), np.arange(columns), indexing="ij")
    used = max(rows, columns) if rule == "hf523" else max(int(times[-1]) + 1, rows, columns)
    return np.stack([t, y, x]).reshape(3, -1) + start, start + used


def span_positions(
    start: int, span: TokenSpan, merge: int, video: VideoTokens | None = None, rule: RopeRule = "max"
) -> tuple[np.ndarray, int]:
    """Positions of a span of text and vision blocks.

    Args:
        start: `next` before the span.
        span: tokens with the places of their vision blocks; grids are in patches.
        merge: patches per side of one visual token.
        video: how the model's family writes video tokens: it decides how fast the time axis moves.
        rule: where text stands after a video; see `block_positions`.

    Returns:
        Positions, int64 [3, len(span.ids)], and `next` after them.
    """
    pieces, done = [], 0
    for block in span.blocks:
        text, start = text_positions(start, block.offset - done)
        step = 1.0
        if block.is_video and video is not None and video.positions_per_second is not None:
            step = float(np.float32(video.positions_per_second) * np.float32(block.seconds_per_patch))
        t, h, w = block.grid_thw
        placed, start = block_positions(start, (t, h // merge, w // merge), step=step, rule=rule)
        pieces += [text, placed]
        done = block.offset + placed.shape[1]
    text, start = text_positions(start, len(span.ids) - done)
    return np.concatenate([*pieces, text], axis=1), start
