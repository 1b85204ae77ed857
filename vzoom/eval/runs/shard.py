"""Which part of a run a process does, and which process it is.

Questions are asked in blocks of fixed size, and whole blocks are dealt out: who is fed together decides the last bits
of the logits, so a run over any number of processes gives the answers of a run over one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """One part of a run.

    Args:
        index: of this part, from 0.
        count: of all parts.

    Raises:
        ValueError: the index is not below the count.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"a shard is i/n with 0 ≤ i < n, got {self.index}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that "1/4" names. ValueError for another form."""
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if match is None:
            raise ValueError(f"a shard is i/n, as 0/4 for the first of four, got {text!r}")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Shard:
        """The shard that RANK and WORLD_SIZE name, as `accelerate launch` and torchrun set them; else the whole run."""
        if "WORLD_SIZE" not in environment:
            return cls()
        try:
            return cls(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
        except KeyError:
            raise ValueError("WORLD_SIZE is set, but RANK is not: start with `accelerate launch`") from None

    def mine(self, block: int) -> bool:
        """Whether this shard does block number `block`."""
        return block % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"


def local_device(device: str, environment: Mapping[str, str] = os.environ) -> str:
    """`device`, or this process's own GPU if it is "auto" and a launcher says which one.

    Args:
        device: as the user names it.
        environment: LOCAL_RANK says which.
    """
    rank = environment.get("LOCAL_RANK")
    if device != "auto" or rank is None:
        return device
    import torch

    return f"cuda:{int(rank)}" if torch.cuda.is_available() else "cpu"
