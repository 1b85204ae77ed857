"""What a look at a long video costs, in vzoom and in every other reader that is installed.

    python bench/videos.py VIDEOS                         # renders the files, about 20 minutes
    python bench/bench_video.py VIDEOS --peers PYTHON     # PYTHON: an interpreter that imports the peers
    python bench/write_tables.py                          # puts bench/results/video.json into docs/benchmarks.md

Figures are CPU milliseconds (user + system, all threads) of a process of the reader's own, one decoding thread, medians
of runs that take turns: `open` opens the file; `zoom` is 16 frames over 2 s, somewhere in the video, as pixel values of
a Qwen2.5-VL; `glance` is 64 frames over all of it, as pixel values; `keyframe glance` shows the keyframes before them.
Every frame carries its number. A reader whose frames are not those that were asked for is named and not timed.
`floor` is decoding from the keyframes before, and converting what was asked for to RGB, without skipping a frame.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import av
import numpy as np
from command import machine
from harness import tell
from peers.video_readers import READERS
from videos import FPS, KINDS, Kind, make

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "video.json"
ZOOM_FRAMES, ZOOM_SECONDS, GLANCE_FRAMES = 16, 2.0, 64


class Reader:
    """A reader in a process of its own."""

    def __init__(self, name: str, python: Path, path: Path, kind: Kind) -> None:
        self.name = name
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
        command = [str(python), str(HERE / "peers" / "video_readers.py"), name, str(path), json.dumps(vars(kind))]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.hello = self._answer()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
        except BrokenPipeError as error:
            raise RuntimeError(f"{self.name}: its process ended with {self._process.wait()}") from error
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        if self._process.poll() is None:
            self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: its process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def keyframes(path: Path) -> np.ndarray:
    """Numbers of the frames that are keyframes."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        begin = stream.start_time or 0
        packets = (p for p in container.demux(stream) if p.is_keyframe and p.pts is not None)
        return np.array([round(float((p.pts - begin) * p.time_base) * FPS) for p in packets])


def zooms(kind: Kind, count: int) -> list[list[float]]:
    """Times of clips all over the video, the same for all readers, each on a frame."""
    starts = np.random.default_rng(0).integers(0, int((kind.seconds - ZOOM_SECONDS) * FPS), size=count)
    steps = [int(i * ZOOM_SECONDS * FPS / ZOOM_FRAMES) for i in range(ZOOM_FRAMES)]
    return [[(int(start) + step) / FPS for step in steps] for start in starts]


def glance(kind: Kind) -> list[float]:
    """64 times over all of the video, each on a frame."""
    return [int(i * kind.seconds * FPS / GLANCE_FRAMES) / FPS for i in range(GLANCE_FRAMES)]


def groups(keys: np.ndarray, seconds: list[float]) -> list[list[int]]:
    """[keyframe, last frame, frames wanted] of each group that is touched."""
    numbers = np.array([round(t * FPS) for t in seconds])
    owners = keys[np.searchsorted(keys, numbers, side="right") - 1]
    return [[int(key), int(numbers[owners == key].max()), int((owners == key).sum())] for key in np.unique(owners)]


def measure(kind: Kind, path: Path, readers: list[Reader], *, num_zooms: int, num_glances: int) -> dict[str, Any]:
    """Check all readers, then time them in turns.

    Returns:
        For each reader its median CPU milliseconds by what was done, and its peak memory; and "floor" beside them.
    """
    clips, whole, keys = zooms(kind, num_zooms), glance(kind), keyframes(path)
    asked = [round(t * FPS) for t in [*clips[0], *whole[:: GLANCE_FRAMES // 4]]]
    found: dict[str, Any] = {}
    sound = []
    for reader in readers:
        told = reader.ask("check", indices=asked, keyframes=whole)
        if told["wrong"]:
            tell(f"{reader.name}: {told['wrong']} wrong frames of {len(asked)}; not timed")
            found[reader.name] = {"wrong_frames": told["wrong"], "version": reader.hello["version"]}
            continue
        sound.append((reader, {"open": [], "zoom": [], "glance": [], "keyframe glance": []}, told["digest"]))
    digests = {round(digest, 1) for _, _, digest in sound}
    if len(digests) > 1:
        tell(f"pixel values differ: {digests}")
    floors: dict[str, list[float]] = {"zoom": [], "glance": []}
    ours = next(reader for reader, _, _ in sound if reader.name == "vzoom")
    for clip in clips:
        for reader, times, _ in sound:
            times["open"].append(reader.ask("open")["cpu_ms"])
            told = reader.ask("values", seconds=clip)
            times["zoom"].append(told["cpu_ms"])
            times.setdefault("peak", []).append(told["peak_mib"])
        floors["zoom"].append(ours.ask("floor", groups=groups(keys, clip))["cpu_ms"])
    for _ in range(num_glances):
        for reader, times, _ in sound:
            times["glance"].append(reader.ask("values", seconds=whole)["cpu_ms"])
        times = next(times for reader, times, _ in sound if reader is ours)
        times["keyframe glance"].append(ours.ask("keyframe_values", seconds=whole)["cpu_ms"])
        floors["glance"].append(ours.ask("floor", groups=groups(keys, whole))["cpu_ms"])
    for reader, times, digest in sound:
        peak = max(times.pop("peak"))
        medians = {what: round(statistics.median(spent), 1) for what, spent in times.items() if spent}
        found[reader.name] = {
            **medians,
            "peak_mib": round(peak),
            "version": reader.hello["version"],
            "same_pixel_values": abs(digest - sound[0][2]) < 1,
        }
    found["floor"] = {what: round(statistics.median(spent), 1) for what, spent in floors.items()}
    return found


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """vzoom beside the best of the others, decord and the floor."""
    ours = found["vzoom"]
    peers = {name: entry for name, entry in found.items() if name not in ("vzoom", "floor") and "zoom" in entry}
    made = {
        "zoom / floor": ours["zoom"] / found["floor"]["zoom"],
        "glance / floor": ours["glance"] / found["floor"]["glance"],
    }
    if peers:
        best = {what: min(entry[what] for entry in peers.values()) for what in ("zoom", "glance")}
        made |= {
            "best peer's zoom / ours": best["zoom"] / ours["zoom"],
            "our glance / best peer's": ours["glance"] / best["glance"],
            "best peer's glance / our keyframe glance": best["glance"] / ours["keyframe glance"],
        }
    if "decord" in peers:
        made["decord's zoom / ours"] = peers["decord"]["zoom"] / ours["zoom"]
    return {name: round(value, 2) for name, value in made.items()}


def table(held: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| file | reader | open | zoom | glance of 64 | keyframe glance | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in held["files"].items():
        for reader, row in entry["readers"].items():
            cells = [_cell(row.get(what)) for what in ("open", "zoom", "glance", "keyframe glance")]
            if "wrong_frames" in row:
                cells = [f"{row['wrong_frames']} wrong frames", "", "", ""]
            lines.append(f"| {name} | {reader} | {' | '.join(cells)} | {row.get('peak_mib', '')} |")
    lines += ["", "| file | " + " | ".join(next(iter(held["files"].values()))["ratios"]) + " |"]
    lines.append("|---" * (1 + len(next(iter(held["files"].values()))["ratios"])) + "|")
    for name, entry in held["files"].items():
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in entry["ratios"].values()) + " |")
    place, versions = held["machine"], ", ".join(f"{name} {number}" for name, number in held["versions"].items())
    lines += ["", f"CPU milliseconds, one thread of {place['cpu']}, load {place['load_average'][0]}, {place['date']}."]
    lines.append(f"Medians of {held['zooms']} zooms and {held['glances']} glances. {versions}.")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}".replace(",", " ")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every file, and keep what is done so far in --out."""
    held: dict[str, Any] = {
        "machine": machine(1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "zooms": options.zooms,
        "glances": options.glances,
        "versions": {"av": version("av"), "torch": version("torch"), "transformers": version("transformers")},
        "files": {},
    }
    for name in options.kinds:
        for suffix, path in make(KINDS[name], options.videos).items():
            readers = []
            for reader in options.readers:
                python = Path(sys.executable) if reader in ("vzoom", "PyAV by hand") else options.peers
                if python is None:
                    continue
                started = Reader(reader, python, path, KINDS[name])
                if "error" in started.hello:
                    tell(f"{reader}: left out ({started.hello['error']})")
                    started.close()
                else:
                    readers.append(started)
                    held["versions"][reader.split()[0]] = started.hello["version"]
            try:
                found = measure(KINDS[name], path, readers, num_zooms=options.zooms, num_glances=options.glances)
            finally:
                for started in readers:
                    started.close()
            held["files"][f"{name} {suffix}"] = {"readers": found, "ratios": ratios(found)}
            tell(f"{name} {suffix}: {json.dumps(found)} {json.dumps(ratios(found))}")
            if options.out is not None:
                options.out.write_text(json.dumps(held, indent=1) + "\n")
    return held


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("videos", type=Path, help="folder of the files; what is missing is rendered")
    made.add_argument("--peers", type=Path, help="interpreter that imports the peers, torch and transformers")
    made.add_argument("--readers", nargs="+", default=list(READERS), choices=READERS, help="default: all")
    made.add_argument("--kinds", nargs="+", default=["360p-60min", "1080p-30min"], choices=KINDS)
    made.add_argument("--zooms", type=int, default=9, help="default: %(default)s")
    made.add_argument("--glances", type=int, default=3, help="default: %(default)s")
    made.add_argument("--out", type=Path, default=RESULTS, help="default: %(default)s")
    return made


def main() -> None:
    print(table(run(parser().parse_args())))


if __name__ == "__main__":
    main()
