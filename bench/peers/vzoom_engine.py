"""vzoom: the real Engine and its loop, with sessions that count tokens where real ones look for tags.

A session asks for frames at times that no file has: time 0 is the glance, the others number the clips of the workload.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from workload import PIXELS_A_TOKEN, Workload

import vzoom
from vzoom import kernels
from vzoom.config import Sampling, ZoomConfig
from vzoom.engine.engine import Engine
from vzoom.engine.request import Request
from vzoom.engine.session import NeedFrames, NeedTokens, Session
from vzoom.models import FeatureCache, encode, load_checkpoint
from vzoom.protocol import builtin_protocol
from vzoom.protocol.tokenize import TokenSpan, VisionBlock
from vzoom.types import Clip, Event, StopReason, Trajectory, VideoInfo, ZoomCall

from . import Phases

MAX_SESSIONS, MAX_TOTAL_TOKENS = 8, 8192


def make(model: str, dtype: str, mode: str) -> VzoomEngine:
    return VzoomEngine(model, dtype)


class MemoryVideo:
    """The workload's frames as a FrameSource."""

    def __init__(self, work: Workload) -> None:
        side = work.shape.side_pixels
        self.info = VideoInfo(path="memory", duration_seconds=3600.0, fps=30.0, width=side, height=side)
        self._work = work

    def frames_at(self, timestamps: Sequence[float]) -> Clip:
        number = round(timestamps[0])
        clips = self._work.clips
        frames = self._work.glance if number == 0 else clips.reshape(-1, *clips.shape[2:])[number - 1]
        times = tuple(number + i / 100 for i in range(len(frames)))
        return Clip(frames, times, tuple(range(len(frames))), (False,) * len(frames))

    def close(self) -> None:
        pass


DIRECT = builtin_protocol("vzoom").override(name="direct", pixels={"resize": "direct"})


class CountingSession(Session):
    """Samples as many tokens a turn as the workload says. Rollout i of a group is the one with sampling seed i."""

    def __init__(self, work: Workload, *args: Any) -> None:
        super().__init__(*args)
        self._work = work
        self.action = NeedFrames((0.0,), None, (1,))

    @property
    def rollout(self) -> int:
        return self.sampling.seed

    def splice(self, clip: Clip, per_clip: Sequence[int] = ()) -> None:
        work, turn = self._work, len(self.trajectory.turns)
        held = work.prompt_ids if turn == 0 else work.turn_ids[self.rollout, turn - 1]
        ids = work.expanded(held)
        size = work.shape.tokens_a_frame
        side = work.shape.side_pixels // PIXELS_A_TOKEN * self.vocabulary.merge
        pending = self.trajectory.ids[-1:]
        # Each image id in front of an image was one token less than it is now.
        offsets = np.flatnonzero(held == work.image_token_id) + np.arange(len(clip)) * (size - 1) + len(pending)
        blocks = [VisionBlock(i, 1, int(offset), (1, side, side)) for i, offset in enumerate(offsets)]
        self._feed(TokenSpan(pending + ids, blocks), clip, opens_turn=True)

    def accept(self, token: int, logprob: float) -> str:
        assert isinstance(self.action, NeedTokens)
        self._commit(self.action)
        trajectory, turn = self.trajectory, self.turn
        trajectory.ids.append(token)
        trajectory.sampled.append(True)
        trajectory.logprobs.append(logprob)
        for axis in trajectory.positions:
            axis.append(self._next_position)
        turn.num_sampled += 1
        shape, number = self._work.shape, len(trajectory.turns) - 1
        if turn.num_sampled < shape.turn_tokens(number):
            self._feed(TokenSpan([token]), None, opens_turn=False)
        elif number == shape.zooms:
            self._finish(StopReason.ANSWERED)
        else:
            turn.outcome = ZoomCall(0.0, 1.0, float(shape.clip_frames))
            self.action = NeedFrames((1.0 + self.rollout * shape.zooms + number,), turn.outcome, (1,))
        return ""


class VzoomEngine:
    def __init__(self, model: str, dtype: str) -> None:
        # The peers ban no token, and a ban moves every log-probability a little.
        self.checkpoint = replace(load_checkpoint(model, device="cpu", dtype=dtype), banned_ids=())
        self.features = FeatureCache()
        self.engine = Engine(
            self.checkpoint,
            max_sessions=MAX_SESSIONS,
            max_total_tokens=MAX_TOTAL_TOKENS,
            feature_cache=self.features,
        )
        self.phases = Phases()
        self.prompt_tokens: list[int] = []
        self.checked = False
        self.logprobs: list[list[list[float]]] = []
        self.versions = {"vzoom": vzoom.__version__}
        self.settings = {"kernels": kernels.registry.chosen(), "block_size": self.engine.pool.block_size}
        self.phases.watch(encode, "frames_to_patches", "patches")
        self.phases.watch(self.checkpoint.model, "encode_images", "vision")
        self._step = self.engine.step
        self.engine.step = self._timed_step  # type: ignore[method-assign]
        self._forward: Any = self.checkpoint.model.forward
        self.checkpoint.model.forward = self._timed_forward  # type: ignore[method-assign]
        self._decoded = 0  # tokens that the step in progress decodes; 0 where it opens a turn

    def _timed_forward(self, ids_T: torch.Tensor, batch: Any, *args: Any) -> torch.Tensor:
        sequences = batch.last_rows_S.numel()
        if len(ids_T) == sequences:  # the whole step is booked
            self._decoded = sequences
            return self._forward(ids_T, batch, *args)
        with self.phases.stage("prefill"):
            return self._forward(ids_T, batch, *args)

    def _timed_step(self) -> list[Event]:
        self._decoded = 0
        began = time.thread_time()
        events = self._step()
        if self._decoded:
            self.phases.add("decode", time.thread_time() - began)
            self.phases.decode_tokens += self._decoded
        return events

    def prepare(self, work: Workload) -> None:
        self.features.clear()

    def run(self, work: Workload) -> list[list[list[int]]]:
        shape = work.shape
        limits = ZoomConfig(max_total_tokens=MAX_TOTAL_TOKENS, max_zooms=shape.zooms, protocol=DIRECT)
        request = Request(
            open_video=partial(MemoryVideo, work),
            question="counted",
            config=limits,
            sampling=Sampling(temperature=0.0, seed=0),
            num_rollouts=shape.rollouts,
            session=partial(CountingSession, work),
        )
        (outcomes,) = self.engine.run([request], keep_clips=False)
        trajectories = [outcome.unwrap() for outcome in outcomes]
        turns = self._turns(trajectories[0], shape.turns)
        assert all(all(own.sampled[turn]) for own in trajectories for turn in turns)
        self.logprobs = [[own.logprobs[turn] for own in trajectories] for turn in turns]
        return [[own.ids[turn] for own in trajectories] for turn in turns]

    def _turns(self, trajectory: Trajectory, turns: int) -> list[slice]:
        """The sampled indices of each turn; notes how long the context was before it."""
        ranges, end = [], 0
        for turn in trajectory.turns:
            # The first turn opens with the prompt, the others with a pending token that was sampled before.
            begin = end + turn.num_prefilled - (1 if end else 0)
            end = begin + turn.num_sampled
            ranges.append(slice(begin, end))
        assert len(ranges) == turns
        self.prompt_tokens = [r.start for r in ranges]
        return ranges
