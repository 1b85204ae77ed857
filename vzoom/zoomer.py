"""`vzoom.load(...)` and `Zoomer.ask(...)`: the front door."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from os import PathLike
from pathlib import Path

from .config import Sampling, ZoomConfig
from .engine import Engine, Job, Reuse
from .models import Checkpoint, FeatureCache, load_checkpoint
from .report import Report
from .types import Clip, Event, Failed, Finished, Trajectory, TurnOpened
from .video import CacheStats, ClipCache

EMBEDDED = "embedded"


@dataclass(frozen=True)
class Result:
    """An answer and how it was reached. clips[i] is what trajectory.zooms[i] brought; seconds is wall time."""

    trajectory: Trajectory
    glance: Clip
    clips: list[Clip]
    seconds: float
    model: str

    @property
    def answer(self) -> str | None:
        """The text of the answer, or None where the model never gave one (see trajectory.stop_reason)."""
        return self.trajectory.answer

    @property
    def report(self) -> Report:
        """A self-contained HTML page of this result: `result.report.save("out.html")`."""
        return Report(self)


def embedded_path() -> Path:
    """The folder of the small model that comes with the package."""
    return Path(str(files("vzoom") / "synthetic" / "embedded"))


def load(
    model: str | PathLike[str] = EMBEDDED,
    *,
    device: str = "auto",
    dtype: str = "auto",
    config: ZoomConfig | None = None,
) -> Zoomer:
    """Load a Qwen2-VL, Qwen2.5-VL or Qwen3-VL checkpoint.

    model: a folder, a hub id such as "Qwen/Qwen2.5-VL-7B-Instruct", or "embedded", the small model of the package,
    which knows nothing but vzoom's rendered world. config: replaces the checkpoint's own `vzoom.json`.
    """
    path = embedded_path() if model == EMBEDDED else model
    checkpoint = load_checkpoint(str(path), device=device, dtype=dtype)
    return Zoomer(checkpoint, config=config, name=str(model))


class Zoomer:
    """A loaded model that answers questions about videos.

    `clip_cache` keeps decoded frames between questions, `feature_cache` what the vision tower made of them; `stats()`
    of either counts hits. Clear the latter when the weights of the tower change.
    """

    def __init__(self, checkpoint: Checkpoint, *, config: ZoomConfig | None = None, name: str | None = None) -> None:
        self.checkpoint = checkpoint
        self.config = config or checkpoint.config
        self.name = name or checkpoint.name
        self.clip_cache = ClipCache()
        self.feature_cache = FeatureCache()

    @property
    def is_embedded(self) -> bool:
        return self.name == EMBEDDED

    def ask(
        self,
        video: str | PathLike[str],
        question: str,
        *,
        max_zooms: int | None = None,
        sampling: Sampling | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> Result:
        """Answer one question. `on_event` sees text and zooms as they happen.

        ValueError (VideoError among them) for a file that is not a readable video, an empty question, or a glance
        that does not fit in max_total_tokens.
        """
        return self.ask_many([(video, question)], max_zooms=max_zooms, sampling=sampling, on_event=on_event)[0]

    def ask_many(
        self,
        jobs: Iterable[tuple[str | PathLike[str], str]],
        *,
        max_zooms: int | None = None,
        sampling: Sampling | None = None,
        on_event: Callable[[Event], None] | None = None,
        max_sessions: int = 8,
        reuse: Reuse = "off",
    ) -> list[Result]:
        """Answer (video, question) pairs, up to `max_sessions` at once in one batch. Results in the jobs' order.

        reuse: splice clips that an earlier session of this call has seen without feeding them again. Approximate:
        result.trajectory.is_exact says where it happened. See `vzoom/engine/clip_reuse.py`.
        Pair i samples with seed sampling.seed + i. `seconds` of a result is counted from the start of the whole call.
        """
        config = self.config.override(max_zooms=max_zooms)
        base = sampling or Sampling()
        # One seed for all would draw the same numbers in every session.
        queue = [
            self._job(video, question, config, replace(base, seed=base.seed + i))
            for i, (video, question) in enumerate(jobs)
        ]
        return self._run(queue, on_event, max_sessions=min(max_sessions, len(queue)), reuse=reuse)

    def rollouts(
        self,
        video: str | PathLike[str],
        question: str,
        num_rollouts: int,
        *,
        max_zooms: int | None = None,
        sampling: Sampling | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> list[Result]:
        """Answer one question `num_rollouts` times in one batch that shares the glance: its frames are encoded and its
        tokens fed once. Rollout i samples with seed sampling.seed + i; temperature 1 where no sampling is given.
        """
        if num_rollouts < 1:
            raise ValueError(f"num_rollouts must be 1 or more, got {num_rollouts}")
        job = self._job(
            video, question, self.config.override(max_zooms=max_zooms), sampling or Sampling(temperature=1.0)
        )
        return self._run([replace(job, num_rollouts=num_rollouts)], on_event, max_sessions=num_rollouts)

    def cache_stats(self) -> dict[str, CacheStats]:
        """Hits and misses so far: "frames" of decoding, "features" of the vision tower."""
        return {"frames": self.clip_cache.stats(), "features": self.feature_cache.stats()}

    def _job(self, video: str | PathLike[str], question: str, config: ZoomConfig, sampling: Sampling) -> Job:
        opened = partial(self.clip_cache.open, video, config=config, spec=self.checkpoint.patch_spec)
        return Job(opened, question, config, sampling)

    def _run(
        self,
        jobs: list[Job],
        on_event: Callable[[Event], None] | None,
        *,
        max_sessions: int,
        reuse: Reuse = "off",
    ) -> list[Result]:
        """Results of all rollouts of all jobs, in order."""
        if not jobs:
            return []
        started = time.perf_counter()
        engine = Engine(
            self.checkpoint,
            max_sessions=max_sessions,
            max_total_tokens=jobs[0].config.max_total_tokens,
            feature_cache=self.feature_cache,
            reuse=reuse,
        )
        clips: defaultdict[int, list[Clip]] = defaultdict(list)
        done: dict[int, tuple[Trajectory, float]] = {}
        try:
            for job in jobs:
                engine.add(job)
            for event in engine.run():
                if on_event:
                    on_event(event)
                if isinstance(event, TurnOpened) and event.clip is not None:
                    clips[event.session].append(event.clip)
                elif isinstance(event, Finished):
                    done[event.session] = event.trajectory, time.perf_counter() - started
                elif isinstance(event, Failed):
                    raise event.error
        finally:
            engine.close()
        return [
            Result(done[i][0], glance=clips[i][0], clips=clips[i][1:], seconds=done[i][1], model=self.name)
            for i in range(len(done))
        ]
