"""Damaged video files, read in child processes: no crash, no hang, bounded memory, only documented errors.

And the same frame for the same time, whatever was read before; or one of the two says that it is damaged.

    PYTHONPATH=tests python tests/fuzz/videos.py --long      # 5 000 files
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from torture_videos import FILES, Shelf

from vzoom.video import VideoError, VideoReadError, open_video

DEADLINE_SECONDS = 5.0  # of each call
GRACE_SECONDS = 3.0  # a packet that is being decoded is finished; and the machine may be busy
MAX_RSS_MB = 512
BATCH = 40  # files per child
BAD = ("unstable", "too much memory", "error of several lines")


def damaged(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """`data` with one to three kinds of damage."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        size = len(out)
        if size < 16:
            break
        # Half of the damage hits the head, where a container says what follows.
        at = rng.randrange(min(size, 2048) if rng.random() < 0.5 else size)
        kind = rng.randrange(8)
        if kind == 0:
            for _ in range(rng.randint(1, 64)):
                out[rng.randrange(size)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            length = rng.randint(1, 256)
            out[at : at + length] = rng.randbytes(min(length, size - at))
        elif kind == 2:
            del out[at : at + rng.randint(1, max(1, size // 4))]
        elif kind == 3:
            out[at:at] = out[at : at + rng.randint(1, 4096)]
        elif kind == 4:
            del out[rng.randrange(size) :]
        elif kind == 5:  # a size, a count, or a time
            out[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"\x00\x00\x00\x01"])
        elif kind == 6:
            cut = rng.randrange(len(other))
            out[at:] = other[cut:]
        else:
            length = rng.randint(1, 2000)
            out[at : at + length] = bytes(min(length, size - at))
    return bytes(out)


def read(path: Path, rng: random.Random) -> Counter[str]:
    """Read one damaged file twice, in two orders. What came of it, by name; "unstable" must not be among it."""
    seen: Counter[str] = Counter()
    first = _read(path, None, seen)
    if first is None:
        return seen
    order = list(first)
    rng.shuffle(order)
    second = _read(path, order, seen)
    for at, frame in first.items():
        again = second.get(at) if second is not None else None
        if frame != again:
            marked = any(f is not None and f[2] for f in (frame, again))
            seen["differs and is marked" if marked else "unstable"] += 1
    return seen


Shown = dict[float, tuple[float, str, bool] | None]  # time -> (pts, hash of the pixels, damaged); None: an error


def _read(path: Path, times: list[float] | None, seen: Counter[str]) -> Shown | None:
    shown: Shown = {}
    with _timed("open", seen):
        try:
            video = open_video(path, deadline_seconds=DEADLINE_SECONDS)
        except VideoError as error:
            seen["refused" if "\n" not in str(error) else "error of several lines"] += 1
            return None
    with video:
        seen["opened"] += 1
        end = video.info.duration_seconds
        for at in times if times is not None else [i * end / 12 for i in range(12)]:
            with _timed("read", seen):
                try:
                    clip = video.frames_at([at])
                except VideoReadError:
                    seen["read errors"] += 1
                    shown[at] = None
                    continue
            pixels = hashlib.blake2b(clip.frames.tobytes(), digest_size=8).hexdigest()
            shown[at] = clip.pts_seconds[0], pixels, clip.damaged[0]
            seen["damaged frames"] += clip.damaged[0]
            seen["frames"] += 1
    return shown


class _timed:
    """Notes a call that lasted longer than it may."""

    def __init__(self, name: str, seen: Counter[str]) -> None:
        self._name, self._seen = name, seen

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        if time.monotonic() - self._began > DEADLINE_SECONDS + GRACE_SECONDS:
            self._seen[f"late {self._name}"] += 1


def child(folder: Path, seed: int, numbers: range) -> None:
    """Make and read files, one JSON line each; `{"number": n}` first, so that the parent knows where it stands."""
    shelf = Shelf(folder)
    names = sorted(FILES)
    peak = 0
    for number in numbers:
        rng = random.Random(f"{seed} {number}")
        name = rng.choice(names)
        print(json.dumps({"number": number, "name": name}), flush=True)
        data = damaged(shelf.path(name).read_bytes(), shelf.path(rng.choice(names)).read_bytes(), rng)
        path = folder / f"damaged_{number}_{name}"
        path.write_bytes(data)
        seen = read(path, rng)
        rss = _peak_mb()
        if rss > MAX_RSS_MB and peak <= MAX_RSS_MB:
            seen["too much memory"] += 1
        peak = max(peak, rss)
        bad = {key: count for key, count in seen.items() if key in BAD or key.startswith("late")}
        if not bad:
            path.unlink()
        print(json.dumps({"done": number, "name": name, "seen": seen, "rss": rss, "bad": bad}), flush=True)


def _peak_mb() -> int:
    """Of this process: what getrusage tells begins with the memory of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def run(num_files: int, *, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Fuzz `num_files` files.

    Returns:
        What was seen, and one line about each thing that must not be. Files that showed one are kept in `folder`.
    """
    shelf = Shelf(folder)
    for name in FILES:
        shelf.path(name)
    total: Counter[str] = Counter()
    found: list[str] = []
    peak = 0
    begin = 0
    while begin < num_files:
        numbers = range(begin, min(begin + BATCH, num_files))
        command = [sys.executable, __file__, "--child", str(folder), "--seed", str(seed)]
        command += ["--numbers", str(numbers.start), str(numbers.stop)]
        paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_feed, args=(process, lines), daemon=True).start()
        errors: list[str] = []
        threading.Thread(target=lambda p=process, e=errors: e.append(p.stderr.read()), daemon=True).start()
        at, name = begin, "?"
        # Opening, twelve reads and all again are 26 calls, each with its own deadline.
        while True:
            try:
                line = lines.get(timeout=26 * (DEADLINE_SECONDS + GRACE_SECONDS))
            except queue.Empty:
                process.kill()
                found.append(f"file {at} ({name}): hangs")
                break
            if line is None:
                if process.wait() != 0:
                    time.sleep(0.2)
                    said = "".join(errors).strip().splitlines()[-1:]
                    found.append(f"file {at} ({name}): the process ended with {process.returncode}: {said}")
                break
            report = json.loads(line)
            if "number" in report:
                at, name = report["number"], report["name"]
            else:
                begin, peak = report["done"] + 1, max(peak, report["rss"])
                total.update(report["seen"])
                if report["bad"]:
                    found.append(f"file {at} ({name}): {report['bad']}, {report['rss']} MB")
        begin = max(begin, at + 1)
    total["files"] = num_files
    total["peak MB"] = peak
    return total, found


def _feed(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true", help="5 000 files, not 100")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=int)
    parser.add_argument("--keep", help="folder for the files")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--numbers", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(Path(args.child), args.seed, range(*args.numbers))
        return 0
    num_files = args.files or (5000 if args.long else 100)
    print(f"videos: {num_files} files, --seed {args.seed}", flush=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(args.keep or made)
        folder.mkdir(exist_ok=True, parents=True)
        total, found = run(num_files, seed=args.seed, folder=folder)
    for line in found:
        print(line)
    print(", ".join(f"{name}: {count}" for name, count in sorted(total.items())))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
