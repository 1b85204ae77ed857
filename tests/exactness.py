"""Exactness, as a tool for tests: splice-then-decode logits equal full-prefill logits.

A random model never writes a call, so its tokens are scripted: the engine samples, the script replaces the choice,
and the logits behind every sampled position are kept for the comparison.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from protocols import DIRECT

from vzoom.config import Sampling, ZoomConfig
from vzoom.engine import engine as engine_module
from vzoom.engine import session as session_module
from vzoom.engine.engine import Engine
from vzoom.engine.request import Request
from vzoom.models import Checkpoint
from vzoom.models.stock import full_prefill
from vzoom.protocol import RopeRule
from vzoom.types import Clip, Event, Failed, Trajectory, TurnOpened, VideoInfo

CONFIG = ZoomConfig(protocol=DIRECT, max_total_tokens=16384)
VIDEO = VideoInfo("scripted.mp4", duration_seconds=128.0, fps=30.0, width=56, height=84)


class FakeReader:
    """A video whose frames are noise that depends on their time. Glance and zooms come in different sizes."""

    def __init__(self, seed: int = 0, sizes_hw: Sequence[tuple[int, int]] = ((56, 84), (84, 56))) -> None:
        self.info = VIDEO
        self.seed = seed
        self.sizes_hw = sizes_hw
        self.calls = 0
        self.closed = False

    def frames_at(self, timestamps: Sequence[float]) -> Clip:
        height, width = self.sizes_hw[min(self.calls, len(self.sizes_hw) - 1)]
        self.calls += 1
        frames = [
            np.random.default_rng([self.seed, int(t * 1000)]).integers(0, 256, (height, width, 3), dtype=np.uint8)
            for t in timestamps
        ]
        indices = tuple(round(t * self.info.fps) for t in timestamps)
        return Clip(np.stack(frames), tuple(timestamps), indices, (False,) * len(frames))

    def close(self) -> None:
        self.closed = True


@dataclass
class Recorded:
    """A finished session with the logits row behind each sampled token and the frames it was shown."""

    trajectory: Trajectory | None = None
    logits: list[torch.Tensor] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


def run_scripted(
    monkeypatch: Any,
    checkpoint: Checkpoint,
    scripts: dict[str, list[str]],
    *,
    config: ZoomConfig = CONFIG,
    group: bool = False,
    **settings: Any,
) -> tuple[dict[str, Recorded], Engine]:
    """Run one session a script, all in one engine made with `settings`; the model "writes" the script's turns.

    The keys are the questions; `group`: rollouts of one question, the first key, that share its glance.
    """
    names = list(scripts)
    tokens = {q: [t for turn in turns for t in checkpoint.tokenizer.encode(turn)] for q, turns in scripts.items()}
    recorded: dict[str, Recorded] = defaultdict(Recorded)
    rows: list[torch.Tensor] = []
    choose, accept = engine_module.choose, session_module.Session.accept

    def spy(logits: torch.Tensor, *rest: Any) -> Any:
        rows.extend(logits.clone())
        return choose(logits, *rest)

    def scripted(self: session_module.Session, token: int, logprob: float) -> str:
        name = names[self.sampling.seed]
        recorded[name].logits.append(rows.pop(0))
        return accept(self, tokens[name].pop(0), logprob)

    monkeypatch.setattr(engine_module, "choose", spy)
    monkeypatch.setattr(session_module.Session, "accept", scripted)
    settings = {"max_sessions": len(scripts), "max_total_tokens": config.max_total_tokens} | settings
    engine = Engine(checkpoint, **settings)
    if group:
        engine.add(Request(FakeReader, names[0], config, Sampling(), num_rollouts=len(names)))
    else:
        for seed, name in enumerate(names):
            engine.add(Request(lambda seed=seed: FakeReader(seed), name, config, Sampling(seed=seed)))
    for event in engine.events():
        assert not isinstance(event, Failed), event
        record = recorded[names[event.request_id]]
        record.events.append(event)
        if isinstance(event, TurnOpened) and event.clip is not None:
            record.clips.append(event.clip)
        record.trajectory = getattr(event, "trajectory", record.trajectory)
    monkeypatch.undo()
    return dict(recorded), engine


def exactness_error(hf: Any, recorded: Recorded, processor: Any) -> tuple[float, bool]:
    """(max abs logit difference over max abs logit at all sampled positions, whether all positions are equal).

    processor: transformers' own, for images.
    """
    frames = [frame for clip in recorded.clips for frame in clip.frames]
    return difference(hf, recorded, processor(images=frames, do_resize=True, return_tensors="pt"))


def difference(
    hf: Any, recorded: Recorded, pixels: Mapping[str, torch.Tensor], rule: RopeRule = "max"
) -> tuple[float, bool]:
    """As `exactness_error`, from pixels that were made before."""
    trajectory = recorded.trajectory
    assert trajectory is not None
    want, positions = full_prefill(hf, trajectory, pixels, rule=rule)
    got = torch.stack(recorded.logits)
    assert got.shape == want.shape
    same = positions.equal(torch.tensor(trajectory.positions)[:, :-1])
    return float((got - want).abs().max() / want.abs().max()), same
