"""How `vzoom distill` and `vzoom reflect` ask their expert, and how `reflect` holds a model's own conversations.

Light: the command line is made of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class ExpertSettings:
    """What an expert behind an endpoint is asked, and when it is asked no more."""

    attempts: Annotated[int, "conversations per question, until one is right"] = 1
    temperature: Annotated[float, "how random the expert's next token is"] = 0.0
    concurrency: Annotated[int, "conversations with the expert at once"] = 8
    reply_tokens: Annotated[int, "most tokens of one reply of the expert"] = 4096
    max_cost: Annotated[float | None, "stop before all runs together have cost more than this"] = None
    max_tokens: Annotated[int | None, "stop before all runs together have used more tokens than this"] = None


@dataclass(frozen=True)
class RolloutSettings:
    """The conversations that a model holds by itself, to be corrected."""

    rollouts: Annotated[int, "conversations per question"] = 1
    temperature: Annotated[float, "how random the next token is; 0 always takes the likeliest one"] = 1.0
    max_sessions: Annotated[int, "conversations of the model at once"] = 16
    seed: Annotated[int, "seed of all that is drawn at random"] = 0
