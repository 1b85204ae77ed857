"""Samples -> one batch for a stock transformers Qwen-VL model.

Rows are padded on the right and there is no attention mask: a causal model never looks at what comes later, and the
mask of a long conversation would be T x T. Positions are the session's own, [3, B, T]: transformers takes them as they
are, and looks for packed sequences only where there are four rows of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from .features import Visuals
from .samples import Sample

IGNORED = -100  # in labels, as transformers has it

Targets = Literal["learned", "sampled"]


def collate(
    samples: Sequence[Sample],
    visuals: Visuals,
    *,
    pad_id: int,
    image_token_id: int,
    targets: Targets = "learned",
) -> dict[str, torch.Tensor]:
    """input_ids and labels [B, T], position_ids [3, B, T]; with images pixel_values and image_grid_thw [N, 3].

    labels: the token itself where it is a target, IGNORED elsewhere: transformers predicts the label at t from the
    hidden state at t − 1. ValueError where tokens and features of the images do not agree.
    """
    if not samples:
        raise ValueError("a batch needs at least one conversation")
    masks = [sample.learned if targets == "learned" else sample.sampled for sample in samples]
    ids = [sample.ids for sample in samples]
    labels = [np.where(mask, sample.ids, IGNORED) for sample, mask in zip(samples, masks, strict=True)]
    batch = {
        "input_ids": pad_rows(ids, pad_id),
        "labels": pad_rows(labels, IGNORED),
        "position_ids": torch.stack([pad_rows([s.positions[axis] for s in samples], 0) for axis in range(3)]).long(),
    }
    grids = [(1, *frame.grid_hw) for sample in samples for frame in sample.frames]
    num_tokens = int(sum((row == image_token_id).sum() for row in ids))
    num_features = 0.0
    if grids:
        batch["image_grid_thw"] = torch.tensor(grids)
        batch["pixel_values"] = visuals.values(samples)
        num_features, left = divmod(len(batch["pixel_values"]), visuals.rows_per_token)
        if left:
            raise ValueError(
                f"{len(batch['pixel_values'])} rows of patches are no multiple of {visuals.rows_per_token}"
            )
    if num_tokens != num_features:
        raise ValueError(
            f"image features and image tokens do not match: {num_features:g} features of {len(grids)} frames, "
            f"{num_tokens} tokens in {', '.join(sample.id for sample in samples)}"
        )
    return batch


def pad_rows(rows: Sequence[np.ndarray], fill: Any) -> torch.Tensor:
    """Rows of different lengths, filled up on the right: [B, T]."""
    padded = np.full((len(rows), max(map(len, rows))), fill, rows[0].dtype)
    for to, row in zip(padded, rows, strict=True):
        to[: len(row)] = row
    return torch.from_numpy(padded)
