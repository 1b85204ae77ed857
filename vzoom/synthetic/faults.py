"""What goes wrong at a server, on purpose and in a way that can be repeated: by request number, or at a seeded rate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Fault(StrEnum):
    BUSY = "busy"  # 429 with Retry-After
    BROKEN = "broken"  # 500
    DROPPED = "dropped"  # the connection closes without a reply
    SLOW = "slow"  # the right reply, slow_seconds late
    MALFORMED = "malformed"  # 200 with what is no chat completion
    TRUNCATED = "truncated"  # the reply ends in the middle of its JSON
    EMPTY = "empty"  # a completion without text
    CUT = "cut"  # the stream ends between two of its chunks; without a stream the same as truncated


@dataclass(frozen=True)
class Faults:
    """plan: by the number of the request, from 0 over all. rate: of the requests that the plan does not name.

    Which of them, and what of `kinds` befalls them, follows from seed, the record, and how often it was asked about:
    the order in which threads come does not matter.
    """

    plan: Mapping[int, Fault] = field(default_factory=dict)
    rate: float = 0.0
    seed: int = 0
    kinds: tuple[Fault, ...] = tuple(Fault)
    retry_after_seconds: int = 1
    slow_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate must be 0 or more and below 1, got {self.rate}")
        if not self.kinds:
            raise ValueError("kinds must name at least one fault")

    def befalling(self, number: int, record: str, occurrence: int) -> Fault | None:
        """What befalls request `number`, the one about `record` that came after `occurrence` others; None: nothing."""
        if number in self.plan:
            return self.plan[number]
        drawn = hashlib.sha256(f"{self.seed}\n{record}\n{occurrence}".encode()).digest()
        if int.from_bytes(drawn[:8], "big") >= self.rate * 2**64:
            return None
        return self.kinds[int.from_bytes(drawn[8:16], "big") % len(self.kinds)]
