"""What a run of a benchmark is asked to do. Light: the command line is made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ...config import Sampling
from .policy import Policy


@dataclass(frozen=True)
class RunConfig:
    """What decides a run's predictions beside the model and the benchmark's files.

    A block is asked in one batch, `max_sessions` conversations of it at once. Both decide the last bits of the logits,
    so they are part of the run.
    """

    policy: Annotated[Policy, "how the model may look at the video"] = field(default_factory=Policy)
    seed: Annotated[int, "seed of all that is drawn at random"] = Sampling.seed
    temperature: Annotated[float, "how random the next token is"] = Sampling.temperature
    limit: Annotated[int | None, "ask only the first N questions"] = None
    subtitles: Annotated[bool, "put the benchmark's subtitles into the question"] = False
    max_sessions: Annotated[int, "conversations of the model at once"] = 8
    block: Annotated[int | None, "questions that are asked in one batch (default: twice max_sessions)"] = None
    revision: Annotated[str | None, "revision of the benchmark's data, for the protocol's hash"] = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be 1 or more, got {self.limit}")
        if not 1 <= self.max_sessions <= self.block_size:
            raise ValueError(f"need 1 ≤ max_sessions ≤ block, got {self.max_sessions} and {self.block_size}")

    @property
    def block_size(self) -> int:
        """Questions of a block."""
        return 2 * self.max_sessions if self.block is None else self.block
