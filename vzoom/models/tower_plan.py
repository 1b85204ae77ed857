"""Which patch attends to which, and where it is: all of a vision tower's run that depends on the grids alone.

Patches come image by image, each in merge order: the m x m patches of a visual token follow each other.
T patches, U = T / m^2 visual tokens, S spans that attend within themselves, R = head_dim / 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Grids = tuple[tuple[int, int], ...]  # (rows, columns) of patches of each image


@dataclass(frozen=True)
class Spans:
    """Spans of patches that attend within themselves, each in pages of its own."""

    slots_T: Tensor  # int64
    block_table_SB: Tensor  # int32
    lengths_S: Tensor  # int32
    cu_seqlens: Tensor  # int32 [S + 1]
    num_blocks: int

    @classmethod
    def of(cls, lengths: np.ndarray, block_size: int, device: torch.device) -> Spans:
        blocks = -(-lengths // block_size)
        first = np.cumsum(blocks) - blocks
        starts = np.concatenate([[0], np.cumsum(lengths)])
        # A token's slot is its place in its span after the first slot of the span.
        slots = np.arange(starts[-1]) + np.repeat(first * block_size - starts[:-1], lengths)
        table = first[:, None] + np.minimum(np.arange(blocks.max(initial=0)), blocks[:, None] - 1)
        return cls(
            slots_T=_on(device, slots, torch.int64),
            block_table_SB=_on(device, table, torch.int32),
            lengths_S=_on(device, lengths, torch.int32),
            cu_seqlens=_on(device, starts, torch.int32),
            num_blocks=int(blocks.sum()),
        )


@dataclass(frozen=True)
class TowerPlan:
    """What the layers of a vision tower need to know of one set of grids.

    Attributes:
        cos_TR: of the angles of each patch, in the layers' order, float32.
        sin_TR: likewise.
        images: the spans of whole images.
        windows: the spans of windows; None if all layers attend to whole images.
        order_U: visual tokens in the order in which the layers see them; None if that is their own order.
        back_U: undoes it.
        taps_T4: entries of the learned positions that each patch resamples (Qwen3-VL); None without them.
        tap_weights_T4: the weights of these entries.
    """

    cos_TR: Tensor
    sin_TR: Tensor
    images: Spans
    windows: Spans | None
    order_U: Tensor | None
    back_U: Tensor | None
    taps_T4: Tensor | None
    tap_weights_T4: Tensor | None


def make_tower_plan(
    grids: Grids,
    *,
    merge: int,
    inv_freq: Tensor,
    window: int | None,
    positions_side: int | None,
    block_size: int,
    device: torch.device,
) -> TowerPlan:
    """Plan a run of the tower.

    Args:
        grids: (rows, columns) of patches of each image.
        merge: patches per side of a visual token.
        inv_freq: the rotary frequencies, [R / 2].
        window: merged patches per side of an attention window; None if all layers attend to the whole image.
        positions_side: entries per side of the square of learned positions; None if there are none.
        block_size: patches per page.
        device: where the plan's tensors go.
    """
    rows_columns = np.concatenate([_coordinates(h, w, merge) for h, w in grids])  # [T, 2]
    sizes = np.array([h * w for h, w in grids])
    order = windows = None
    if window is not None:
        order, lengths = _windows(grids, merge, window)
        windows = Spans.of(lengths * merge**2, block_size, device)
    seen = rows_columns if order is None else rows_columns.reshape(-1, merge**2, 2)[order].reshape(-1, 2)
    angles = (_on(device, seen, torch.float32)[:, :, None] * inv_freq.to(device)).flatten(1)
    taps = weights = None
    if positions_side is not None:
        taps, weights = _taps(rows_columns, np.repeat(np.array(grids), sizes, axis=0), positions_side)
    return TowerPlan(
        cos_TR=angles.cos(),
        sin_TR=angles.sin(),
        images=Spans.of(sizes, block_size, device),
        windows=windows,
        order_U=None if order is None else _on(device, order, torch.int64),
        back_U=None if order is None else _on(device, np.argsort(order), torch.int64),
        taps_T4=None if taps is None else _on(device, taps, torch.int64),
        tap_weights_T4=None if weights is None else _on(device, weights, torch.float32),
    )


def _on(device: torch.device, array: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device=device, dtype=dtype)


def _coordinates(height: int, width: int, merge: int) -> np.ndarray:
    """(row, column) of each patch of an image in merge order, [h * w, 2]."""
    both = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)
    tiles = both.reshape(height // merge, merge, width // merge, merge, 2)
    return tiles.swapaxes(1, 2).reshape(-1, 2)


def _windows(grids: Grids, merge: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Visual tokens ordered by windows of window x window of them, and how many each window holds.

    Windows start at the upper left of each image; those at its lower and right edges are smaller.
    """
    order, lengths, start = [], [], 0
    for height, width in grids:
        rows, columns = height // merge, width // merge
        tokens = np.arange(start, start + rows * columns).reshape(rows, columns)
        for top in range(0, rows, window):
            for left in range(0, columns, window):
                part = tokens[top : top + window, left : left + window].ravel()
                order.append(part)
                lengths.append(len(part))
        start += rows * columns
    return np.concatenate(order), np.array(lengths)


def _taps(rows_columns: np.ndarray, sizes: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear resampling of a side x side table whose corners are the image's: four entries and weights per patch."""
    at = rows_columns.astype(np.float32) * np.float32(side - 1) / np.maximum(sizes - 1, 1).astype(np.float32)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, side - 1)
    part = at - low.astype(np.float32)
    rows, columns = (np.stack([low[:, i], high[:, i]], axis=1) for i in range(2))  # [T, 2]
    by_row, by_column = (np.stack([1 - part[:, i], part[:, i]], axis=1) for i in range(2))
    taps = rows[:, :, None] * side + columns[:, None, :]
    return taps.reshape(-1, 4), (by_row[:, :, None] * by_column[:, None, :]).reshape(-1, 4)
