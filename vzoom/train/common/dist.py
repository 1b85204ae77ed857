"""The processes that train together, as far as rollouts need to know of them."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """Process `rank` of `size`. If there is more than one, torch.distributed must be up."""

    rank: int = 0
    size: int = 1

    def all_gather(self, mine: T) -> list[T]:
        """What every process brought, in the order of their ranks. All processes must call it.

        Args:
            mine: anything that can be pickled.
        """
        if self.size == 1:
            return [mine]
        import torch.distributed

        # Token lists are mostly runs of image tokens: packed, they are a few per cent of their size.
        packed = zlib.compress(pickle.dumps(mine), 1)
        gathered: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(gathered, packed)
        return [mine if i == self.rank else pickle.loads(zlib.decompress(other)) for i, other in enumerate(gathered)]

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """The items that are this process's work: every size-th one."""
        return items[self.rank :: self.size]

    def unshard(self, mine: Sequence[T]) -> list[T]:
        """The results of all processes, in the order of the items. All processes must call it.

        Args:
            mine: one result for each item of this process's `shard`.
        """
        shards = self.all_gather(list(mine))
        count = sum(map(len, shards))
        return [shards[i % self.size][i // self.size] for i in range(count)]
