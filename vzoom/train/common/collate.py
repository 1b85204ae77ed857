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

from ...protocol import Vocabulary
from .features import Visuals
from .samples import Sample

IGNORED = -100  # in labels, as transformers has it

Targets = Literal["learned", "sampled"]
_KINDS = {"pixel_values": ("image", "image_grid_thw"), "pixel_values_videos": ("video", "video_grid_thw")}


@dataclass(frozen=True)
class CollatedBatch:
    """Samples made into a batch, which a model may be given as often as it is needed. It waits on the CPU.

    tokens: input_ids and labels [B, T], position_ids [3, B, T]; image_grid_thw and video_grid_thw [N, 3], if there are
    images and videos. Each temporal patch of a video has a grid of its own: its place in time is in position_ids.
    pixels: gives the rows of all images (pixel_values) and of all videos (pixel_values_videos); see `Visuals.find`.
    num_visual_tokens: by the same names, what the rows must agree with. rows_per_token: of these rows.
    ids: of the samples, for the error.
    """

    tokens: dict[str, torch.Tensor]
    pixels: dict[str, Callable[[], torch.Tensor]]
    num_visual_tokens: dict[str, int]
    rows_per_token: int
    ids: tuple[str, ...]

    def to(self, device: str | torch.device) -> dict[str, torch.Tensor]:
        """The model's arguments on a device.

        Raises:
            ValueError: tokens and features of the images or videos do not agree.
        """
        made = dict(self.tokens)
        for name, num_tokens in self.num_visual_tokens.items():
            if name in self.pixels:
                made[name] = self.pixels[name]()
            num_rows = len(made.get(name, ()))
            num_features, left = divmod(num_rows, self.rows_per_token)
            if left:
                raise ValueError(f"{num_rows} rows of patches are no multiple of {self.rows_per_token}")
            if num_features != num_tokens:
                kind, grids = _KINDS[name]
                raise ValueError(
                    f"{kind} features and {kind} tokens do not match: {num_features} features of "
                    f"{len(made.get(grids, ()))} {'frames' if kind == 'image' else 'temporal patches'}, "
                    f"{num_tokens} tokens in {', '.join(self.ids)}"
                )
        return {name: tensor.to(device) for name, tensor in made.items()}


def collate(
    samples: Sequence[Sample],
    visuals: Visuals,
    *,
    pad_id: int,
    vocabulary: Vocabulary,
    targets: Targets = "learned",
) -> CollatedBatch:
    """Collate samples.

    Args:
        samples: at least one.
        visuals: where the pixels or features of their frames come from.
        pad_id: the token that rows are padded with.
        vocabulary: of the model: which tokens the features of images and videos take the place of.
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
    pixels: dict[str, Callable[[], torch.Tensor]] = {}
    num_visual_tokens: dict[str, int] = {}
    video_id = None if vocabulary.video is None else vocabulary.video.token_id
    for (name, (_, grids)), token in zip(_KINDS.items(), (vocabulary.image_token_id, video_id), strict=True):
        own = [sample for sample in samples if sample.frames and sample.frames[0].is_video == (name != "pixel_values")]
        if own:
            tokens[grids] = torch.tensor([(1, *frame.grid_hw) for sample in own for frame in sample.frames])
            pixels[name] = visuals.find(own)
        if token is not None:
            num_visual_tokens[name] = int(sum((row == token).sum() for row in ids))
    return CollatedBatch(
        tokens,
        pixels,
        num_visual_tokens,
        rows_per_token=visuals.rows_per_token,
        ids=tuple(sample.id for sample in samples),
    )


def pad_rows(rows: Sequence[np.ndarray], fill: Any) -> torch.Tensor:
    """Rows of different lengths, padded on the right with `fill`: [B, T]."""
    padded = np.full((len(rows), max(map(len, rows))), fill, rows[0].dtype)
    for to, row in zip(padded, rows, strict=True):
        to[: len(row)] = row
    return torch.from_numpy(padded)
