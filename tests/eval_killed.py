"""Runs of a small benchmark: undisturbed, killed -9 again and again, and by two processes at once.

    python eval_killed.py VIDEOS OUT SEED KILLS

Prints one JSON object: a content hash each, and how many predictions each kill left. The model is loaded once; every
attempt is a process of its own, forked.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from eval_small import small_benchmark

import vzoom
from vzoom.eval.runs.run import RunConfig, run
from vzoom.eval.runs.shard import Shard
from vzoom.eval.runs.store import content_hash, read_positions
from vzoom.zoomer import Zoomer

CONFIG = RunConfig(max_sessions=1, block=1)
NUM_ITEMS = 8


def main(videos: Path, out: Path, seed: int, kills: int) -> None:
    zoomer = vzoom.load("embedded", device="cpu")
    left = kill_often(zoomer, videos, out / "killed", random.Random(seed), kills)
    for pid in [child(zoomer, videos, out / "two", Shard(index, 2)) for index in range(2)]:
        _, status = os.waitpid(pid, 0)
        assert status == 0
    assert (out / "two" / "predictions.sqlite").exists()  # the one that finished last made it
    hashes = {name: finish(zoomer, videos, out / name) for name in ("killed", "two", "undisturbed")}
    print(json.dumps({**hashes, "left": left}))


def kill_often(zoomer: Zoomer, videos: Path, out: Path, dice: random.Random, kills: int) -> list[int]:
    left = []
    for number in range(kills):
        pid = child(zoomer, videos, out, Shard())
        while held(out) < number:  # each attempt gets at least one question further, and a random part of the next
            time.sleep(0.002)
        time.sleep(dice.uniform(0.0, 0.15))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        left.append(held(out))
    return left


def child(zoomer: Zoomer, videos: Path, out: Path, shard: Shard) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            run(zoomer, small_benchmark(NUM_ITEMS), videos, out, CONFIG, shard=shard)
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def finish(zoomer: Zoomer, videos: Path, out: Path) -> str:
    path = run(zoomer, small_benchmark(NUM_ITEMS), videos, out, CONFIG)
    assert path is not None
    return content_hash(path)


def held(out: Path) -> int:
    """Predictions on the disk."""
    return sum(len(read_positions(path)) for path in (out / "shards").glob("shard-*.sqlite"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
