"""The processes that train together, as far as rollouts need to know of them."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """Process `rank` of `size`. With more than one, torch.distributed must be up."""

    rank: int = 0
    size: int = 1

    def share(self, mine: T) -> list[T]:
        """What every process brought, in order of rank. All of them must call it."""
        if self.size == 1:
            return [mine]
        import torch.distributed

        # Token lists are mostly runs of image tokens: packed, they are a few per cent of their size.
        packed = zlib.compress(pickle.dumps(mine), 1)
        held: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(held, packed)
        return [mine if i == self.rank else pickle.loads(zlib.decompress(other)) for i, other in enumerate(held)]

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of the work: every size-th item."""
        return items[self.rank :: self.size]

    def whole(self, mine: Sequence[T]) -> list[T]:
        """What was made of everybody's `part`, in the order of the items."""
        parts = self.share(list(mine))
        number = sum(map(len, parts))
        return [parts[i % self.size][i // self.size] for i in range(number)]
