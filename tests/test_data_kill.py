"""Distil and reflect, stopped in every way at random moments: taken up again, both end as if nothing had happened,
nothing is paid for twice."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from expert_tools import CONFIG, ZOOM, Mother, files_of, make_questions, until
from faulty_oracle import FaultyOracle
from killing import stops

pytest.importorskip("pyarrow", reason="pyarrow (extra train) is not installed")

KILLS, CONCURRENCY = 10, 2


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyOracle]:
    with FaultyOracle(CONFIG, replace(ZOOM, max_zooms=2), latency_seconds=0.05) as server:
        yield server


@pytest.fixture(scope="module")
def mother(server: FaultyOracle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mother]:
    environment = {"VZOOM_EXPERT_URL": server.url, "VZOOM_EXPERT_MODEL": "oracle"}
    with Mother(environment, tmp_path_factory.mktemp("log") / "child.log") as mother:
        yield mother


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def paid(folder: Path) -> int:
    """Replies that the cache holds."""
    return lines(folder / "replies.jsonl")


def done(folder: Path) -> int:
    """Replies, and blocks of the student's rollouts."""
    return paid(folder) + lines(folder / "rollouts.jsonl")


def kill_again_and_again(
    command: list[str], out: Path, mother: Mother, server: FaultyOracle, *, seed: int, total: int
) -> None:
    """Kill the command ten times, at random moments all over its work; `total`: what an undisturbed run has `done`."""
    draw = random.Random(seed)
    before = server.replies.total()
    moments = sorted(draw.sample(range(total - 8), KILLS))
    for kill, (moment, stop) in enumerate(zip(moments, stops(KILLS), strict=True), 1):
        pid = mother.start(command)
        if done(out) >= moment:  # what was in flight at the last kill went further: this one dies while it starts
            time.sleep(draw.uniform(0.0, 0.3))
        else:
            assert until(lambda at=moment: done(out) >= at, seconds=60), mother.log.read_text()
            time.sleep(draw.uniform(0.0, 0.05))
        stop(pid, draw)
        assert mother.wait() == stop.code, f"kill {kill}, {stop}\n{mother.log.read_text()}"
        lost = server.replies.total() - before - paid(out)  # in flight when it was killed
        assert 0 <= lost <= kill * CONCURRENCY
    mother.start(command)
    assert mother.wait() == 0, mother.log.read_text()


@pytest.mark.parametrize("task", ["distill", "reflect"])
def test_killed_ten_times(task: str, mother: Mother, server: FaultyOracle, tmp_path: Path) -> None:
    # In the first the oracle asks for clips that are too long here, is refused and guesses: most are rejected.
    questions = make_questions(tmp_path, 16, max_zooms=2, zoom_max_frames=8 if task == "distill" else 16)
    command = [task, "--questions", str(questions), "--concurrency", str(CONCURRENCY)]
    if task == "reflect":
        command += ["--model", "embedded", "--rollouts", "2", "--max-sessions", "4", "--device", "cpu"]
        command += ["--temperature", "1.4"]  # hot enough that it answers wrongly
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    idle = server.replies
    mother.start([*command, "--out", str(whole)])
    assert mother.wait() == 0, mother.log.read_text()
    before = server.replies
    undisturbed = before - idle  # by the request's digest
    assert set(undisturbed.values()) == {1}
    kill_again_and_again([*command, "--out", str(killed)], killed, mother, server, seed=len(task), total=done(whole))

    assert files_of(killed) == files_of(whole)
    assert (whole / "kept" / "part-00000.parquet").exists()
    assert (whole / "rejected.jsonl").stat().st_size > 0
    served = server.replies - before
    assert set(served) == set(undisturbed)
    repeated = served.total() - len(served)
    assert paid(killed) == paid(whole) == len(served)
    assert repeated <= KILLS * CONCURRENCY
    mother.start([*command, "--out", str(killed)])
    assert mother.wait() == 0
    assert server.replies - before == served  # finished: nothing is asked any more
    assert files_of(killed) == files_of(whole)
