"""What a run of a benchmark is asked to do. Light: the command line is made of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...config import Sampling
from .policy import Policy


@dataclass(frozen=True)
class RunConfig:
    """What decides a run's predictions beside the model and the benchmark's files.

    max_sessions and block decide the last bits of the logits, so they are part of the run.

    Args:
        policy: how a conversation may look at its video.
        seed: every item draws from its own stream of it.
        temperature: 0 is greedy.
        limit: only the first items; None is all.
        subtitles: put the benchmark's subtitles into the question.
        max_sessions: conversations at once.
        block: questions that are asked in one batch; without it twice max_sessions.
        revision: revision of the benchmark's data, for the protocol's hash.

    Raises:
        ValueError: a number is out of range.
    """

    policy: Policy = field(default_factory=Policy)
    seed: int = Sampling.seed
    temperature: float = Sampling.temperature
    limit: int | None = None
    subtitles: bool = False
    max_sessions: int = 8
    block: int | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be 1 or more, got {self.limit}")
        if not 1 <= self.max_sessions <= self.block_size:
            raise ValueError(f"need 1 ≤ max_sessions ≤ block, got {self.max_sessions} and {self.block_size}")

    @property
    def block_size(self) -> int:
        """Questions of a block."""
        return 2 * self.max_sessions if self.block is None else self.block
