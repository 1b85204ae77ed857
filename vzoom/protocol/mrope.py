"""Incremental M-RoPE: the 3-D positions of the next tokens, computed from one integer per sequence.

`next` is the position that the next text token gets on all three axes (time, row, column). It is absolute and
belongs to the sequence; transformers keeps a `rope_deltas` on the model instead, which two interleaved sessions
corrupt for each other. Every frame is an image of its own, so the time axis never advances within one.
Source of the rules: Qwen2-VL (arXiv 2409.12191, section 2.1).
"""

from __future__ import annotations

import numpy as np

from .tokenize import TokenSpan


def text_positions(start: int, count: int) -> tuple[np.ndarray, int]:
    """Positions of text tokens: all three axes count up together.

    Args:
        start: `next` before these tokens.
        count: number of tokens.

    Returns:
        Positions, int64 [3, count], and `next` after them.
    """
    return np.broadcast_to(np.arange(start, start + count, dtype=np.int64), (3, count)), start + count


def image_positions(start: int, rows: int, columns: int) -> tuple[np.ndarray, int]:
    """Positions of one image: one time for all of it, rows and columns counted up from `start`.

    Args:
        start: `next` before the image.
        rows: height of the image in merged patches.
        columns: width of the image in merged patches.

    Returns:
        Positions, int64 [3, rows * columns], and `next` after them: the largest position used, plus one.
    """
    y, x = np.indices((rows, columns), dtype=np.int64)
    positions = np.stack([np.zeros_like(y), y, x]).reshape(3, -1) + start
    return positions, start + max(rows, columns)


def span_positions(start: int, span: TokenSpan, merge: int) -> tuple[np.ndarray, int]:
    """Positions of a span of text and images.

    Args:
        start: `next` before the span.
        span: tokens with the places of their images; grids are in patches.
        merge: patches per side of one visual token.

    Returns:
        Positions, int64 [3, len(span.ids)], and `next` after them.
    """
    pieces, done = [], 0
    for _, offset, (h, w) in span.images:
        text, start = text_positions(start, offset - done)
        image, start = image_positions(start, h // merge, w // merge)
        pieces += [text, image]
        done = offset + image.shape[1]
    text, start = text_positions(start, len(span.ids) - done)
    return np.concatenate([*pieces, text], axis=1), start
