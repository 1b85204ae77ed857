"""The programs in examples/ run as a reader would run them, and print what their texts promise."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "inputs")


def run(name: str, folder: Path, *options: str) -> list[str]:
    """The lines that a program prints, run in `folder` with its own defaults."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *options],
        cwd=folder, env=os.environ, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"examples/{name}.py ends with {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
    return done.stdout.splitlines()


def test_there_is_a_test_for_each_program() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert len(PROGRAMS) == 6
    assert set(PROGRAMS) <= tested, "write a test for it, named after it"


def test_ask(tmp_path: Path) -> None:
    lines = run("ask", tmp_path)
    assert "glance: 32 frames from 0.0 s to 62.0 s" in lines
    assert [line for line in lines if line.startswith("zoom:")] == [
        "zoom:   16 frames from 14 s to 22 s",
        "zoom:   12 frames from 22 s to 28 s",
    ]
    assert any(line.startswith("answer: A (answered") for line in lines)
    assert "<!doctype html" in (tmp_path / "example-out" / "answer.html").read_text()[:100].lower()


def test_ask_about_a_video_of_ones_own(tmp_path: Path) -> None:
    run("ask", tmp_path)
    video = str(tmp_path / "example-out" / "video-4.mp4")
    lines = run("ask", tmp_path, "--video", video, "--question", "Which shape flashes in the gray scene?\nA: triangle")
    assert any(line.startswith("zoom:") for line in lines)


def test_many_questions(tmp_path: Path) -> None:
    lines = run("many_questions", tmp_path)
    assert len(lines) == 7
    assert "video-4.mp4: A after 2 zooms" in lines[0]
    assert "no-such-video.mp4" in lines[1]
    assert " zooms, " not in lines[1], "the request that fails has an error of its own"
    assert all(" zooms, " in line for line in lines[2:]), "the others are answered all the same"


def test_rollouts(tmp_path: Path) -> None:
    lines = run("rollouts", tmp_path)
    rollouts = [line for line in lines if line.startswith("rollout ")]
    assert len(rollouts) == 8
    assert len({line.partition("log-probability")[2] for line in rollouts}) > 1, "they are sampled one by one"
    assert lines[-1].startswith("frames that the vision tower encoded: ")


def test_drop_in_generate(tmp_path: Path) -> None:
    lines = run("drop_in_generate", tmp_path)
    assert sum("<video_zoom>" in line for line in lines) == 2
    assert lines[-1].startswith("answer: A, ")


def test_own_reader(tmp_path: Path) -> None:
    lines = run("own_reader", tmp_path)
    assert lines[-1] == "answer: A after 2 zooms, 60 frames seen", "the array is the video of ask.py, frame by frame"


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL (extra train) is not installed")
def test_train_on_your_questions(tmp_path: Path) -> None:
    lines = run("train_on_your_questions", tmp_path)
    assert sum(line.startswith("step ") for line in lines) >= 2
    assert lines[-1].startswith("example-out/trained answers ")
    assert (tmp_path / "example-out" / "trained" / "model.safetensors").exists()
