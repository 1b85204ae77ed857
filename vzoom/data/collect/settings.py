"""How `vzoom distill` and `vzoom reflect` ask their expert, and how `reflect` holds a model's own conversations.

Light: the command line is made of it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExpertSettings:
    """What an expert behind an endpoint is asked, and when it is asked no more.

    Args:
        attempts: conversations per question, until one is right.
        temperature: how random the expert's next token is; 0 takes the most likely one.
        concurrency: conversations with the expert at once.
        reply_tokens: most tokens of one reply of the expert.
        max_cost: stop before all runs together have cost more than this.
        max_tokens: stop before all runs together have used more tokens than this.
    """

    attempts: int = 1
    temperature: float = 0.0
    concurrency: int = 8
    reply_tokens: int = 4096
    max_cost: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class RolloutSettings:
    """The conversations that a model holds by itself, to be corrected.

    Args:
        rollouts: conversations per question.
        temperature: divides the logits; 0 takes the most likely token (greedy).
        max_sessions: conversations of the model at once.
        seed: of all that is drawn at random.
    """

    rollouts: int = 1
    temperature: float = 1.0
    max_sessions: int = 16
    seed: int = 0
