"""The benchmark of readers: wrong frames are noticed and never timed, ratios are right, the page shows the results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
import bench_video
import videos
import write_tables
from peers import video_readers
from peers.video_readers import READERS, PyAVByHand, Worker

LITTLE = videos.Kind("little", 320, 180, 20)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return videos.make(LITTLE, tmp_path_factory.mktemp("little"))


def test_readers_are_checked_and_timed_in_turns(files: dict[str, Path]) -> None:
    """One process for each reader. mkv holds the same packets."""
    readers = [
        bench_video.Reader(name, Path(sys.executable), files["mkv"], LITTLE) for name in ("vzoom", "PyAV by hand")
    ]
    try:
        found = bench_video.measure(LITTLE, files["mkv"], readers, num_zooms=2, num_glances=1)
    finally:
        for reader in readers:
            reader.close()
    assert set(found) == {"vzoom", "PyAV by hand", "floor"}
    assert found["PyAV by hand"]["same_pixel_values"]  # of the processor of transformers, and ours
    assert {"open", "zoom", "glance", "keyframe glance", "peak_mib"} <= set(found["vzoom"])
    assert all(value > 0 for value in bench_video.ratios(found).values())
    assert found["vzoom"]["keyframe glance"] < found["vzoom"]["glance"]


class _OneOff(PyAVByHand):
    def frames(self, indices: Any) -> np.ndarray:
        return super().frames([index + (index > 30) for index in indices])


def test_wrong_frames_are_noticed(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, "PyAV by hand", _OneOff)
    worker = Worker("PyAV by hand", str(files["mp4"]), vars(LITTLE))
    assert worker.check([3, 30, 31, 100], [0.0])["wrong"] == 2

    class Found:
        name, hello = "PyAV by hand", {"version": "1"}

        def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
            assert do == "check", "it was timed"
            return worker.check(**arguments)

    sound = Worker("vzoom", str(files["mp4"]), vars(LITTLE))

    class Ours:
        name, hello = "vzoom", {"version": "1"}

        def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
            return dict(getattr(sound, do)(**arguments))

    found = bench_video.measure(LITTLE, files["mp4"], [Ours(), Found()], num_zooms=1, num_glances=1)  # type: ignore[list-item]
    assert found["PyAV by hand"]["wrong_frames"] > 0
    assert "zoom" not in found["PyAV by hand"]
    assert "zoom" in found["vzoom"]


def test_ratios_and_the_table() -> None:
    ours = {"open": 1.0, "zoom": 10.0, "glance": 100.0, "keyframe glance": 5.0, "peak_mib": 300, "version": "1"}
    peer = {"open": 2.0, "zoom": 30.0, "glance": 200.0, "peak_mib": 600, "version": "2"}
    found = {
        "vzoom": ours,
        "OpenCV": peer,
        "decord": peer | {"zoom": 70.0, "glance": 900.0},
        "torchcodec exact": {"wrong_frames": 3, "version": "3"},
        "floor": {"zoom": 9.0, "glance": 90.0},
    }
    made = bench_video.ratios(found)
    assert made["best peer's zoom / ours"] == 3.0
    assert made["our glance / best peer's"] == 0.5
    assert made["best peer's glance / our keyframe glance"] == 40.0
    assert made["decord's zoom / ours"] == 7.0
    assert (made["zoom / floor"], made["glance / floor"]) == (1.11, 1.11)
    held = {
        "machine": {"cpu": "a CPU", "load_average": [1.0], "date": "today"},
        "zooms": 2,
        "glances": 1,
        "versions": {"av": "18"},
        "files": {"360p mp4": {"readers": found, "ratios": made}},
    }
    text = bench_video.table(held)
    assert "| 360p mp4 | vzoom | 1 | 10 | 100 | 5 | 300 |" in text
    assert "3 wrong frames" in text
    assert "av 18" in text


def test_groups_of_the_floor() -> None:
    keys = np.array([0, 250, 500])
    assert bench_video.groups(keys, [0.0, 5.0, 9.0, 20.0]) == [[0, 150, 2], [250, 270, 1], [500, 600, 1]]
    assert all(len(clip) == 16 and clip[-1] - clip[0] < 2 for clip in bench_video.zooms(videos.KINDS["360p-60min"], 5))
    assert len(bench_video.glance(LITTLE)) == 64


def test_the_page_shows_what_was_measured() -> None:
    text = write_tables.DOCUMENT.read_text()
    assert write_tables.fill(text, write_tables.tables()) == text, "run python bench/write_tables.py"
    assert video_readers.PACKAGES.keys() == READERS.keys()
