"""Samples -> one batch for a stock transformers Qwen-VL model.

Rows are padded on the right and there is no attention mask: a causal model never looks at what comes later, and the
mask of a long conversation would be T x T. Positions are the session's own, [3, B, T]: transformers takes them as they
are, and looks for packed sequences only if there are four rows of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from .features import Visuals
from .samples import Sample

IGNORED = -100  # in labels, as transformers has it

Targets = Literal["learned", "sampled"]


@dataclass(frozen=True)
class CollatedBatch:
    """Samples made into a batch, which a model may be given as often as it is needed. It waits on the CPU.

    tokens: input_ids and labels [B, T], position_ids [3, B, T]; image_grid_thw [N, 3] if there are images.
    pixel_values: gives the rows of all images, None without images; see `Visuals.find`.
    num_image_tokens, rows_per_token: what the rows must agree with. ids: of the samples, for the error.
    """

    tokens: dict[str, torch.Tensor]
    pixel_values: Callable[[], torch.Tensor] | None
    num_image_tokens: int
    rows_per_token: int
    ids: tuple[str, ...]

    def to(self, device: str | torch.device) -> dict[str, torch.Tensor]:
        """The model's arguments on a device.

        Raises:
            ValueError: tokens and features of the images do not agree.
        """
        made = dict(self.tokens)
        num_rows = 0
        if self.pixel_values is not None:
            made["pixel_values"] = self.pixel_values()
            num_rows = len(made["pixel_values"])
        num_features, left = divmod(num_rows, self.rows_per_token)
        if left:
            raise ValueError(f"{num_rows} rows of patches are no multiple of {self.rows_per_token}")
        if num_features != self.num_image_tokens:
            num_frames = len(made.get("image_grid_thw", ()))
            raise ValueError(
                f"image features and image tokens do not match: {num_features} features of {num_frames} frames, "
                f"{self.num_image_tokens} tokens in {', '.join(self.ids)}"
            )
        return {name: tensor.to(device) for name, tensor in made.items()}


def collate(
    samples: Sequence[Sample],
    visuals: Visuals,
    *,
    pad_id: int,
    image_token_id: int,
    targets: Targets = "learned",
) -> CollatedBatch:
    """Collate samples.

    Args:
        samples: at least one.
        visuals: where the pixels or features of their frames come from.
        pad_id: the token that rows are padded with.
        image_token_id: the token that an image's features take the place of.
        targets: which tokens get a label. The label is the token itself, IGNORED elsewhere: transformers predicts
            the label at t from the hidden state at t − 1.
    """
    if not samples:
        raise ValueError("a batch needs at least one conversation")
    masks = [sample.learned if targets == "learned" else sample.sampled for sample in samples]
    ids = [sample.ids for sample in samples]
    labels = [np.where(mask, sample.ids, IGNORED) for sample, mask in zip(samples, masks, strict=True)]
    tokens = {
        "input_ids": pad_rows(ids, pad_id),
        "labels": pad_rows(labels, IGNORED),
        "position_ids": torch.stack([pad_rows([s.positions[axis] for s in samples], 0) for axis in range(3)]).long(),
    }
    grids = [(1, *frame.grid_hw) for sample in samples for frame in sample.frames]
    if grids:
        tokens["image_grid_thw"] = torch.tensor(grids)
    return CollatedBatch(
        tokens,
        visuals.find(samples) if grids else None,
        num_image_tokens=int(sum((row == image_token_id).sum() for row in ids)),
        rows_per_token=visuals.rows_per_token,
        ids=tuple(sample.id for sample in samples),
    )


def pad_rows(rows: Sequence[np.ndarray], fill: Any) -> torch.Tensor:
    """Rows of different lengths, padded on the right with `fill`: [B, T]."""
    padded = np.full((len(rows), max(map(len, rows))), fill, rows[0].dtype)
    for to, row in zip(padded, rows, strict=True):
        to[: len(row)] = row
    return torch.from_numpy(padded)
