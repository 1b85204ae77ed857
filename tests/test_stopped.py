"""Long commands, stopped in every way at random moments and started again: the result is that of an undisturbed run.

Those of `vzoom distill` and `vzoom reflect` are in test_data_kill.py, those of training in test_train_*.py. The long
variant: `VZOOM_KILLS=30 pytest tests -k "stopped or killed"`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from expert_tools import Mother
from killing import KILLS, stopped_again_and_again

from vzoom.eval.runs.run import PREDICTIONS
from vzoom.eval.runs.store import content_hash

pytest.importorskip("pyarrow", reason="pyarrow (extra train) is not installed")


@pytest.fixture(scope="module")
def mother(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mother]:
    with Mother({}, tmp_path_factory.mktemp("log") / "child.log") as mother:
        yield mother


def figures(out: Path, log: str) -> object:
    """What `vzoom synthetic eval` printed last."""
    found = json.loads([line for line in log.splitlines() if line.startswith("{")][-1])
    return {name: value for name, value in found.items() if name != "seconds"}


COMMANDS: dict[str, tuple[list[str], Callable[[Path, str], object]]] = {
    "eval": (
        ["eval", "--benchmark", "world", "--limit", "6", "--max-sessions", "1", "--block", "1", "--device", "cpu",
         "--cache", "{out}/videos", "--out", "{out}/run"],
        lambda out, log: content_hash(out / "run" / PREDICTIONS),
    ),
    "synthetic eval": (
        ["synthetic", "eval", "--limit", "6", "--seconds", "32", "--scenes", "3", "--device", "cpu", "--json",
         "--cache", "{out}"],
        figures,
    ),
    "synthetic render": (
        ["synthetic", "render", "--seconds", "64", "--out", "{out}/video.mp4"],
        lambda out, log: ((out / "video.mp4").read_bytes(), (out / "video.json").read_bytes()),
    ),
    "train pretrain": (
        ["train", "pretrain", "tiny", "--scale", "0.001", "--out", "{out}"],
        lambda out, log: (out / "model.safetensors").read_bytes(),
    ),
}  # fmt: skip


_LONG = pytest.mark.skipif(
    KILLS <= 2, reason="minutes; test_train_pipeline.py stops a small one (VZOOM_KILLS=5 runs it)"
)


@pytest.mark.parametrize("name", [pytest.param(name, marks=_LONG) if "train" in name else name for name in COMMANDS])
def test_stopped_in_every_way_it_ends_as_if_nothing_had_happened(name: str, mother: Mother, tmp_path: Path) -> None:
    words, result = COMMANDS[name]
    out = tmp_path / "out"  # the same for both: some results hold their paths
    words = [word.format(out=out) for word in words]

    def start() -> int:
        out.mkdir(exist_ok=True)
        return mother.start(words)

    began = time.monotonic()
    start()
    assert mother.wait() == 0, mother.log.read_text()
    seconds = time.monotonic() - began
    undisturbed = result(out, mother.log.read_text())
    shutil.rmtree(out)
    stopped_again_and_again(start, mother.wait, lambda: shutil.rmtree(out), seconds=0.6 * seconds, seed=len(name))
    log = mother.log.read_text()
    assert result(out, log) == undisturbed
    assert "Traceback" not in log
    assert ": stopped by " in log
