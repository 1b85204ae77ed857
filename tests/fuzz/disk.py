"""Damaged files of every kind that vzoom keeps, and long commands on disks that are full.

    python tests/fuzz/disk.py [--long] [--seed N]

A damaged file is read as what it was, or refused with one line that names it. (Text in JSON has no checksum: a flipped
bit may change a value there, and a Parquet file may not.) `--long` also runs every long command on a small tmpfs at
random sizes, see `full_disk.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from data_records import RECORDS
from eval_rows import make_item, make_story, settings, write_run
from safetensors.torch import save_file
from test_pretrain import small

from vzoom.config import ZoomConfig
from vzoom.data.collect.reply_cache import ReplyCache, same_settings
from vzoom.data.store import Writer, read
from vzoom.eval.item import Verdict
from vzoom.eval.runs.run import PREDICTIONS
from vzoom.eval.runs.store import Store, content_hash, read_rows
from vzoom.models.checkpoint.folder import find_checkpoint
from vzoom.models.checkpoint.stored import open_weights
from vzoom.train.common.checkpoints import TrainingLog, mark_complete, newest_complete
from vzoom.train.common.feature_rows import FileRows
from vzoom.train.pipeline.stage_store import StageStore
from vzoom.train.pretrain.pretrain import Pretraining

Draw = random.Random
NUM_SHORT, SECONDS_LONG, TRIES_LONG = 300, 180.0, 6
MOST_SECONDS = 10.0  # of one file
TASKS = ("eval", "distill", "render", "sft", "grpo", "pretrain")  # of full_disk.py


@dataclass(frozen=True)
class Kind:
    """A file that is kept. use: reads it and returns what it holds; has_checksum: it must then be what was written."""

    name: str
    use: Callable[[Path], object]
    has_checksum: bool = False


def _stage(folder: Path) -> None:
    with StageStore(folder, say=lambda line: None) as store:
        store.stage("a", lambda made: [made / "x"], settings={"x": 1})


def _replies(folder: Path) -> object:
    with closing(ReplyCache(folder / "replies.jsonl")) as cache:
        return cache.values()


def _records(folder: Path) -> object:
    with Writer(folder / "records") as writer:
        return len(writer.ids)


def _store(folder: Path) -> None:
    with Store(folder / PREDICTIONS, settings()):
        pass


def _config(folder: Path) -> object:
    return ZoomConfig.from_dict(find_checkpoint(str(folder)).read_json("vzoom.json") or {}, str(folder / "vzoom.json"))


_PRETRAINING: list[Pretraining] = []


def _resume(folder: Path) -> None:
    _PRETRAINING[0].out = folder
    _PRETRAINING[0].resume()


KINDS = (
    Kind("settings.json", lambda folder: same_settings(folder, {"attempts": 1})),
    Kind("manifest.json", _stage),
    Kind("replies.jsonl", _replies),
    Kind("records/part-00000.parquet", lambda folder: list(read(folder / "records")), has_checksum=True),
    Kind("records/journal.jsonl", _records),
    Kind(PREDICTIONS, lambda folder: (read_rows(folder / PREDICTIONS), content_hash(folder / PREDICTIONS))),
    Kind(PREDICTIONS, _store),
    Kind("checkpoints/checkpoint-1/progress.json", lambda folder: newest_complete(folder / "checkpoints")),
    Kind("checkpoints/checkpoint-1/model.safetensors", lambda folder: newest_complete(folder / "checkpoints")),
    Kind("log.jsonl", lambda folder: TrainingLog(folder / "log.jsonl", step=9)),
    Kind("index.jsonl", lambda folder: FileRows(folder, dtype=torch.float32, version="1")),
    Kind("model.safetensors", lambda folder: sorted(open_weights(folder, "m"))),
    Kind("vzoom.json", _config),
    Kind("trainer.pt", _resume),
)


def make(folder: Path) -> None:
    """One of each, as it should be."""
    same_settings(folder, {"attempts": 1, "model": "m"})
    with StageStore(folder, say=lambda line: None) as store:
        store.stage("a", _x, settings={"x": 1})
    with closing(ReplyCache(folder / "replies.jsonl")) as cache:
        for number in range(3):
            cache.put(f"{number}", {"record": "r", "reply": {"text": "é" * number}})
    with Writer(folder / "records") as writer:
        for number in range(2):
            for record in RECORDS:
                writer.add(replace(record, id=f"{record.id}{number}"))
    writer = Writer(folder / "records")
    writer.add(replace(RECORDS[0], id="waits"))
    writer._release()
    write_run(folder, [(make_item(n), Verdict("right", said="B"), make_story(zooms=[(1.0, 3.0)])) for n in range(4)])
    checkpoint = folder / "checkpoints" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    weights = {"a": torch.ones(3, 4), "b": torch.zeros(5)}
    save_file(weights, checkpoint / "model.safetensors")
    save_file(weights, folder / "model.safetensors")
    mark_complete(checkpoint, {"identity": {}, "step": 1, "best": [0.5, 1], "progress": {}})
    (folder / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    rows = FileRows(folder, dtype=torch.float32, version="1")
    rows.add(("a", 1.0), torch.ones(2, 3))
    ZoomConfig().save(folder / "vzoom.json")
    (folder / "config.json").write_text("{}")
    _PRETRAINING[:] = [Pretraining(small(), folder, say=lambda line: None)]
    _PRETRAINING[0].save()


def _x(folder: Path) -> list[Path]:
    (folder / "x").write_text("x")
    return [folder / "x"]


def damaged(data: bytes, draw: Draw) -> bytes:
    """Bits flipped, bytes replaced, dropped, repeated or zeroed, the end cut off, digits and marks exchanged."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        at = draw.randrange(len(changed)) if changed else 0
        kind = draw.randrange(7)
        if kind == 0 and changed:
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[at : at + 1] = draw.choice((b"\0", b"\xff", b"{", b"]", b'"', b"\n", b"-", b"9", b"NaN", b"1e999"))
        elif kind == 2:
            del changed[at : at + draw.choice((1, 8, 512, 4096))]
        elif kind == 3:
            changed[at:at] = changed[at : at + draw.choice((1, 8, 512))]
        elif kind == 4:
            length = draw.choice((4, 64, 512, 4096))
            changed[at : at + length] = bytes(len(changed[at : at + length]))
        elif kind == 5:
            del changed[at:]
        else:
            changed[at : at + 4] = os.urandom(4)
    return bytes(changed)


def try_one(folder: Path, whole: Path, draw: Draw) -> str:
    """Damage one file and read it. "read" or "refused"; AssertionError if something else happened."""
    kind = draw.choice(KINDS)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    expected = kind.use(folder) if kind.has_checksum else None
    path = folder / kind.name
    path.write_bytes(damaged(path.read_bytes(), draw))
    started = time.monotonic()
    try:
        found = kind.use(folder)
    except ValueError as error:
        line = str(error)
        assert str(folder) in line, f"{kind.name}: it names no file: {line}"
        assert "\n" not in line or "another curriculum" in line, f"{kind.name}: {line}"
        return "refused"
    assert time.monotonic() - started < MOST_SECONDS, kind.name
    assert expected is None or found == expected, f"{kind.name} was read as other data"
    return "read"


def fuzz(*, seed: int, count: int | None = None, seconds: float | None = None) -> Counter[str]:
    """Damage so many files, or for so long. Returns how many were read, and how many refused."""
    outcomes: Counter[str] = Counter()
    memory_disk = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk waits for each fsync
    with tempfile.TemporaryDirectory(dir=memory_disk) as place:
        folder, whole = Path(place) / "folder", Path(place) / "whole"
        whole.mkdir()
        make(whole)
        begun, number = time.monotonic(), 0
        while number < count if count is not None else time.monotonic() - begun < (seconds or 0.0):
            try:
                outcomes[try_one(folder, whole, random.Random(f"{seed}/{number}"))] += 1
            except BaseException:
                print(f"file {number} of seed {seed}", file=sys.stderr)
                raise
            number += 1
    return outcomes


def full_disks(*, seed: int) -> None:
    """Every long command, stopped again and again by a full disk; and two at once."""
    from test_full_disk import check

    script = Path(__file__).parent.parent / "full_disk.py"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(script), folder, str(seed), str(TRIES_LONG), *TASKS]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        for line in done.stdout.splitlines():
            found = json.loads(line)
            check(found)
            print(f"{found['task']}: stopped {sum(map(bool, found['ended']))} times, the same result")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    if options.long:
        print(dict(fuzz(seed=options.seed, seconds=SECONDS_LONG)))
        full_disks(seed=options.seed)
    else:
        print(dict(fuzz(seed=options.seed, count=NUM_SHORT)))
