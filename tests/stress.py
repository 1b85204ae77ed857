"""Many sessions at once, with random zooms, forks, cancellations and too few pages: each must equal its solo run.

    python tests/stress.py --seconds 600

Scripts are random, the model is small and random; the log-probability of what it would have said at every token is
compared with a run of the same script alone in a roomy engine. Pages and memory must come back.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from checkpoints import make_checkpoint
from exactness import CONFIG, FakeReader

from vzoom.config import Sampling
from vzoom.engine.engine import Engine
from vzoom.engine.request import Request
from vzoom.engine.scripted_session import ScriptedSession
from vzoom.models import Checkpoint, load_checkpoint
from vzoom.models.feature_cache import FeatureCache
from vzoom.types import Failed, Finished

STRESS = dataclasses.replace(CONFIG, glance_max_frames=8, max_total_tokens=2560, max_new_tokens=128)
TOLERANCE = 2e-4  # of a log-probability, fp32


class Random(ScriptedSession):
    """Writes random calls, some of them wrong. A fork writes another future than its parent."""

    by_trajectory: ClassVar[dict[int, Random]] = {}

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.by_trajectory[id(self.trajectory)] = self

    def fork(self, sampling: Sampling) -> Random:
        other = super().fork(sampling)
        self.by_trajectory[id(other.trajectory)] = other
        # The turn in progress is finished as the parent would, then the fork goes its own way.
        turns = make_turns(sampling.seed)
        encode = self.vocabulary.codec.encode
        end = len(self.heard)
        while end < len(self.script) and not self._ends_turn(end):
            end += 1
        other.script = self.script[: end + 1] + [t for turn in turns for t in encode(turn)]
        return other

    def _ends_turn(self, index: int) -> bool:
        text = self.vocabulary.codec.decode(self.script[max(0, index - 40) : index + 1])
        return text.endswith(("</video_zoom>", "</answer>"))


def make_turns(seed: int) -> list[str]:
    rng = random.Random(seed)
    turns = []
    for _ in range(rng.randint(0, 4)):
        start = rng.choice([rng.randint(0, 120), rng.uniform(0, 126), 8])
        length, fps = rng.choice([0.5, 1, 2, 4, 8]), rng.choice([1, 2, 4, 30])
        body = f'{{"segment": [{start:g}, {start + length:g}], "fps": {fps}}}'
        if rng.random() < 0.1:
            body = rng.choice(["{}", '{"segment": [5, 2], "fps": 1}', "look there"])
        turns.append(f"<think>{'hm ' * rng.randint(0, 12)}</think><video_zoom>{body}</video_zoom>")
    # A call that the session refuses for lack of zooms still ends the conversation; the answer is there for the rest.
    return [*turns, f"<think>{'so ' * rng.randint(0, 9)}</think><answer>B</answer>"]


class Stress:
    def __init__(self, checkpoint: Checkpoint, *, num_sessions: int, seed: int) -> None:
        self.checkpoint, self.rng = checkpoint, random.Random(seed)
        self.num_sessions = num_sessions
        self.engine = Engine(
            checkpoint,
            max_sessions=num_sessions,
            max_total_tokens=STRESS.max_total_tokens,
            pool_tokens=num_sessions * STRESS.max_total_tokens // 8,
            overcommit=16.0,
            max_step_tokens=4096,
            overlap=bool(seed % 2),
            feature_cache=FeatureCache(max_bytes=1 << 20),
        )
        self.solo = Engine(
            checkpoint, max_total_tokens=STRESS.max_total_tokens, feature_cache=FeatureCache(max_bytes=1 << 20)
        )
        self.counts: Counter[str] = Counter()
        self.serial = 0
        self.videos: dict[int, int] = {}  # session -> seed of its video

    def add(self, num_rollouts: int = 1) -> None:
        self.serial += 100
        video = self.rng.randint(0, 7)
        factory = partial(Random, make_turns(self.serial))
        job = Request(
            partial(FakeReader, video, [(56, 56)]),
            f"Question {self.serial % 5}?",
            STRESS,
            Sampling(seed=self.serial),
            num_rollouts=num_rollouts,
            session=factory,
        )
        first = self.engine.add(job)
        self.videos |= {first + i: video for i in range(num_rollouts)}

    def step(self, *, forks: bool = True) -> list[tuple[Random, int]]:
        """One step of the crowd; the sessions that ended in it, with the seed of their video."""
        rng, running = self.rng, self.engine._scheduler.sessions
        if running and rng.random() < 0.02:
            number = rng.choice(running).request_id
            self.engine.cancel(number)
            self.counts["cancelled"] += 1
        if running and forks and rng.random() < 0.03 and len(running) < self.num_sessions:
            active = rng.choice(running)
            self.serial += 100
            futures = [Sampling(seed=self.serial), Sampling(seed=self.serial + 50)]
            for number in self.engine.fork(active.request_id, futures):
                self.videos[number] = self.videos[active.request_id]
            self.counts["forked"] += 2
        events = self.engine.step()
        for event in events:
            if isinstance(event, Failed):
                raise AssertionError(f"session {event.request_id} failed") from event.error
        ended = [event for event in events if isinstance(event, Finished)]
        return [(Random.by_trajectory.pop(id(e.trajectory)), self.videos.pop(e.request_id)) for e in ended]

    def compare(self, session: Random, video: int) -> None:
        """The same script alone, in an engine with room for all of it."""
        trajectory = session.trajectory
        if not session.heard:
            return
        kept: list[ScriptedSession] = []

        def again(*args: object) -> ScriptedSession:
            kept.append(ScriptedSession((), *args))  # type: ignore[arg-type]
            kept[0].script = session.script
            return kept[0]

        self.solo.add(
            Request(partial(FakeReader, video, [(56, 56)]), trajectory.question, STRESS, Sampling(), session=again)
        )
        for _ in self.solo.events():
            pass
        alone = kept[0]
        num_ids = len(trajectory.ids)
        assert trajectory.ids == alone.trajectory.ids[:num_ids], "fed other tokens than alone"
        assert [a[:num_ids] for a in alone.trajectory.positions] == list(trajectory.positions), "other positions"
        for i, ((_, crowd), (_, quiet)) in enumerate(zip(session.heard, alone.heard, strict=False)):
            assert abs(crowd - quiet) <= TOLERANCE, f"token {i}: log-probability {crowd} in the crowd, {quiet} alone"
        if trajectory.stop_reason != "cancelled":
            assert trajectory.stop_reason == alone.trajectory.stop_reason
            assert len(session.heard) == len(alone.heard)
            self.counts["finished"] += 1
        self.counts["zooms"] += len(trajectory.zooms)
        self.counts["compared tokens"] += len(session.heard)

    def run(self, seconds: float) -> None:
        begun, rss = time.monotonic(), 0.0
        while (elapsed := time.monotonic() - begun) < seconds:
            while len(self.engine._scheduler.sessions) + len(self.engine._scheduler.waiting) < self.num_sessions:
                self.add(num_rollouts=self.rng.choice([1, 1, 1, 4]))
            for session, video in self.step():
                self.compare(session, video)
            if not rss and elapsed > seconds / 3:  # by now every size of batch has been seen
                rss = rss_mib()
        while self.engine._scheduler.sessions or self.engine._scheduler.waiting:
            for session, video in self.step(forks=False):
                self.compare(session, video)
        for engine in (self.engine, self.solo):
            assert engine.pool.num_free == engine.pool.num_blocks, "pages were lost"
            assert not any(engine.pool._holders)
        self.counts["preemptions"] = self.engine.stats().preemptions
        self.counts["RSS MiB at a third"], self.counts["RSS MiB at the end"] = round(rss), round(rss_mib())
        self.engine.close()
        self.solo.close()


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1, help="odd seeds overlap decoding and vision with the model")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = load_checkpoint(str(make_checkpoint("qwen2_5_vl", Path(folder))))
        stress = Stress(checkpoint, num_sessions=args.sessions, seed=args.seed)
        stress.run(args.seconds)
    print(", ".join(f"{value} {name}" for name, value in stress.counts.items()))
    growth = stress.counts["RSS MiB at the end"] - stress.counts["RSS MiB at a third"]
    if growth > 64:
        print(f"memory grew by {growth} MiB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
