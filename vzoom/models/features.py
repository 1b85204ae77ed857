"""What the vision tower gives to the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Features:
    """Visual tokens of some images. `deepstack[i]` is added after decoder layer i (Qwen3-VL). Each [N, C]."""

    embeds: torch.Tensor
    deepstack: tuple[torch.Tensor, ...] = field(default=())

    def split(self, counts: Sequence[int]) -> list[Features]:
        """One Features per image, image i with counts[i] tokens."""
        levels = zip(*(level.split(list(counts)) for level in (self.embeds, *self.deepstack)), strict=True)
        return [Features(first, tuple(rest)) for first, *rest in levels]

    def part(self, begin: int, end: int) -> Features:
        """Those of visual tokens begin to end, a view."""
        return Features(self.embeds[begin:end], tuple(level[begin:end] for level in self.deepstack))

    @property
    def num_bytes(self) -> int:
        """Memory of all levels."""
        return sum(level.nbytes for level in (self.embeds, *self.deepstack))

    def clone(self) -> Features:
        """A copy in memory of its own."""
        return Features(self.embeds.clone(), tuple(level.clone() for level in self.deepstack))

    @staticmethod
    def cat(features: Sequence[Features]) -> Features:
        """All of them as one, in order."""
        deepstack = zip(*(f.deepstack for f in features), strict=True)
        return Features(torch.cat([f.embeds for f in features]), tuple(torch.cat(level) for level in deepstack))
