"""A block of items, asked by a policy in one batch.

The same block gives the same answers to the last bit, whatever was asked before and by whichever process: the engine
and the cache of visual features are made anew, and clips come in when the model waits for them, not when they happen
to be ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from ...config import Sampling, ZoomConfig
from ...engine import Engine, Job
from ...models import FeatureCache
from ...types import STAGES, Failed, Finished, Trajectory
from ...video import VideoError
from ..item import Item
from ..scores.confidence import confidence_of
from ..scores.cost import ModelShape, cost_of
from .policy import Policy

if TYPE_CHECKING:
    from ...zoomer import Zoomer


@dataclass
class Asked:
    """An item with its video, and the conversations held about it so far. problem: why the video cannot be read."""

    item: Item
    path: Path
    seed: int
    held: list[Trajectory] = field(default_factory=list)
    confidence: float = -1.0
    problem: str = ""

    @property
    def last(self) -> Trajectory:
        """The conversation that counts."""
        return self.held[-1]

    def milliseconds(self) -> dict[str, float]:
        turns = [turn for trajectory in self.held for turn in trajectory.turns]
        return {stage: round(sum(t.milliseconds.get(stage, 0.0) for t in turns), 3) for stage in STAGES}

    def cost(self, shape: ModelShape) -> tuple[float, int]:
        """Operations of all conversations, bytes of keys and values of the largest."""
        costs = [cost_of(trajectory, shape) for trajectory in self.held]
        return sum(c.flops for c in costs), max(c.kv_bytes for c in costs)


def seed_of(item: Item, seed: int) -> int:
    """An item's own seed, whichever others are asked beside it."""
    return crc32(f"{seed} {item.id}".encode())


def ask_block(zoomer: Zoomer, block: Sequence[Asked], policy: Policy, *, temperature: float, max_sessions: int) -> None:
    """Hold the policy's conversations about each item of the block, and keep them there.

    ValueError for a setting that no video could be asked under, such as a glance that does not fit.
    """
    configs = policy.configs(zoomer.config)
    waiting = list(block)
    for number, config in enumerate(configs):
        if waiting:
            _hold(zoomer, waiting, config, temperature=temperature, max_sessions=max_sessions)
        waiting = [asked for asked in waiting if not asked.problem]
        if len(configs) > 1:
            for asked in waiting:
                asked.confidence = round(confidence_of(asked.last, zoomer.checkpoint.tokenizer), 6)
            waiting = [asked for asked in waiting if asked.confidence < policy.confidence]
        assert number + 1 < len(configs) or all(asked.held or asked.problem for asked in block)


def _hold(zoomer: Zoomer, block: Sequence[Asked], config: ZoomConfig, *, temperature: float, max_sessions: int) -> None:
    spec = zoomer.checkpoint.patch_spec
    engine = Engine(
        zoomer.checkpoint,
        max_sessions=min(max_sessions, len(block)),
        max_total_tokens=config.max_total_tokens,
        overlap=False,
        feature_cache=FeatureCache(),
    )
    try:
        for asked in block:
            opened = partial(zoomer.clip_cache.open, asked.path, config=config, spec=spec)
            engine.add(Job(opened, asked.item.question, config, Sampling(temperature, seed=asked.seed)))
        for event in engine.run():
            if isinstance(event, Finished):
                block[event.session].held.append(event.trajectory)
            elif isinstance(event, Failed):
                if not isinstance(event.error, VideoError | OSError):
                    raise ValueError(f"{block[event.session].item.source}: {event.error}") from event.error
                block[event.session].problem = str(event.error)
    finally:
        engine.close()
