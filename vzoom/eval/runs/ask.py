"""A block of items, asked by a policy in one batch.

The same block gives the same answers to the last bit, whatever was asked before and whichever process asks: see
`data.ask_alone`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from ...config import Sampling, ZoomConfig
from ...data import ask_alone
from ...types import STAGES, Trajectory
from ...video import VideoError
from ..item import Item, Verdict, VerdictKind
from ..scores.confidence import confidence_of
from ..scores.cost import ModelShape, cost_of
from .policy import Policy

if TYPE_CHECKING:
    from ...zoomer import Zoomer


@dataclass
class Asked:
    """An item that is asked.

    Args:
        item: of the benchmark.
        path: of its video.
        seed: of its conversations.
        held: the conversations so far.
        confidence: of the last answer; -1 if the policy asks for none.
        problem: the verdict if there is no conversation that counts: the video cannot be read, or an error.
    """

    item: Item
    path: Path
    seed: int
    held: list[Trajectory] = field(default_factory=list)
    confidence: float = -1.0
    problem: Verdict | None = None

    @property
    def last(self) -> Trajectory:
        """The conversation that counts."""
        return self.held[-1]

    def milliseconds(self) -> dict[str, float]:
        """Of all conversations together, by stage."""
        turns = [turn for trajectory in self.held for turn in trajectory.turns]
        return {stage: round(sum(t.milliseconds.get(stage, 0.0) for t in turns), 3) for stage in STAGES}

    def cost(self, shape: ModelShape) -> tuple[float, int]:
        """Operations of all conversations, and bytes of keys and values of the largest."""
        costs = [cost_of(trajectory, shape) for trajectory in self.held]
        return sum(c.flops for c in costs), max(c.kv_bytes for c in costs)


def seed_of(item: Item, seed: int) -> int:
    """An item's own seed, whatever else is asked beside it."""
    return crc32(f"{seed} {item.id}".encode())


def ask_block(zoomer: Zoomer, block: Sequence[Asked], policy: Policy, *, temperature: float, max_sessions: int) -> None:
    """Hold the policy's conversations about each item of the block, and put them into `Asked.held`.

    Args:
        zoomer: the model.
        block: what to ask; gets the conversations.
        policy: how they may look at the videos.
        temperature: 0 is greedy.
        max_sessions: conversations at once.
    """
    configs = policy.configs(zoomer.config)
    waiting = list(block)
    for number, config in enumerate(configs):
        if waiting:
            _hold(zoomer, waiting, config, temperature=temperature, max_sessions=max_sessions)
        waiting = [asked for asked in waiting if not asked.problem]
        if len(configs) > 1:
            for asked in waiting:
                asked.confidence = round(confidence_of(asked.last, zoomer.info.tokenizer, config.protocol), 6)
            waiting = [asked for asked in waiting if asked.confidence < policy.confidence]
        assert number + 1 < len(configs) or all(asked.held or asked.problem for asked in block)


def _hold(zoomer: Zoomer, block: Sequence[Asked], config: ZoomConfig, *, temperature: float, max_sessions: int) -> None:
    requests = [
        zoomer.request(asked.path, asked.item.question, config=config, sampling=Sampling(temperature, seed=asked.seed))
        for asked in block
    ]
    held = ask_alone(zoomer, requests, max_sessions=min(max_sessions, len(block)))
    for asked, (outcome,) in zip(block, held, strict=True):
        if outcome.error is None:
            asked.held.append(outcome.unwrap())
        else:
            kind: VerdictKind = "missing_video" if isinstance(outcome.error, VideoError | OSError) else "failed"
            asked.problem = Verdict(kind, detail=f"{outcome.error}" or type(outcome.error).__name__)
