"""kill -9 five times, and two processes at once: the file is that of an undisturbed run. And the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vzoom.cli import main
from vzoom.eval.runs.run import PREDICTIONS
from vzoom.eval.runs.store import content_hash, read_positions

SCRIPT = Path(__file__).with_name("eval_killed.py")
PATHS = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS), "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    videos, out = tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("runs")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(videos), str(out), "7", "5"],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_five_kills_leave_no_trace(found: dict[str, Any]) -> None:
    assert found["killed"] == found["undisturbed"]
    assert len(found["left"]) == 5
    assert found["left"] == sorted(found["left"])  # nothing that was done is lost
    assert all(count >= number for number, count in enumerate(found["left"]))
    assert found["left"][0] < 8  # it was at work when it was killed


def test_two_processes_at_once_give_the_file_of_one(found: dict[str, Any]) -> None:
    assert found["two"] == found["undisturbed"]


def test_accelerate_launch_gives_the_file_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    common = ["eval", "--benchmark", "world", "--limit", "4", "--max-sessions", "1", "--block", "1"]
    common += ["--cache", str(tmp_path / "videos")]
    two, one = tmp_path / "two", tmp_path / "one"
    assert main([*common, "--out", str(one)]) == 0
    # --multi_gpu is accelerate's name for "by torchrun"; without a GPU the processes are on the CPU.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--main_process_port", "0", "-m", "vzoom"]
    subprocess.run([*launch, *common, "--out", str(two)], check=True, env=ENVIRONMENT, timeout=900)
    assert content_hash(two / PREDICTIONS) == content_hash(one / PREDICTIONS)
    shards = sorted((two / "shards").glob("shard-*.sqlite"))
    assert [read_positions(shard) for shard in shards] == [{0, 2}, {1, 3}]  # there really were two


@pytest.mark.slow
def test_ray_gives_the_file_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    common = ["eval", "--benchmark", "world", "--limit", "2", "--max-sessions", "1", "--block", "1"]
    common += ["--cache", str(tmp_path / "videos")]
    two, one = tmp_path / "two", tmp_path / "one"
    assert main([*common, "--out", str(one)]) == 0
    words = [sys.executable, "-m", "vzoom", *common, "--out", str(two), "--ray", "2", "--gpus", "0"]
    # Ray starts its workers at niceness 15, where a busy machine hardly lets them run.
    environment = {**ENVIRONMENT, "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(words, check=True, env=environment, timeout=900, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].split() == ["predictions", str(two / PREDICTIONS)]
    assert content_hash(two / PREDICTIONS) == content_hash(one / PREDICTIONS)
    shards = sorted((two / "shards").glob("shard-*.sqlite"))
    assert [read_positions(shard) for shard in shards] == [{0}, {1}]
