"""`vzoom eval` and `vzoom report` as commands: what they list, refuse, print and write."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path

import pytest
from eval_rows import make_item, make_story, write_run

from vzoom.cli import main
from vzoom.cli.commands import eval as eval_command
from vzoom.cli.eval_output import duration_text
from vzoom.cli.parser import build_parser
from vzoom.eval.benchmarks import BENCHMARKS
from vzoom.eval.item import Verdict
from vzoom.eval.runs.run import PREDICTIONS
from vzoom.eval.runs.store import content_hash, read_settings


def test_the_list_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["benchmarks"]
    assert [one["name"] for one in listed] == list(BENCHMARKS)
    lvbench = next(one for one in listed if one["name"] == "lvbench")
    assert lvbench["paper"] == {"base": 36.9, "videozoomer": 41.5}
    assert main(["eval", "--list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in BENCHMARKS)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["eval"], "name a --benchmark"),
        (["eval", "--benchmark", "none", "--out", "x"], "unknown benchmark 'none'"),
        (["eval", "--benchmark", "lvbench", "--out", "x"], "lvbench needs --cache"),
        (["eval", "--benchmark", "lvbench", "--out", "x", "--cache", "/none"], "no such folder"),
        (["eval", "--benchmark", "world", "--out", "x", "--fps", "2"], "a fixed rate is for"),
        (["eval", "--benchmark", "world", "--out", "x", "--max-sessions", "0"], "need 1"),
        (["eval", "--benchmark", "world", "--out", "x", "--sweep", "fps", "--fps", "2"], "a fixed rate is for"),
        (["eval", "--benchmark", "world", "--out", "x", "--sweep", "fps", "--policy", "uniform"], "leave it out"),
        (["eval", "--benchmark", "world", "--out", "x", "--sweep", "zooms", "--max-zooms", "2"], "sets --max-zooms"),
        (["eval", "--benchmark", "world", "--out", "x", "--shard", "2/2"], "a shard is i/n"),
        (["report", "none", "--out", "x.html"], "let `vzoom eval` finish there first"),
    ],
)
def test_a_user_s_mistake_is_told_before_a_model_is_loaded(
    words: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(words) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_ray_runs_the_same_command_once_a_shard(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    ran: list[list[str]] = []
    asked: dict[str, float] = {}

    class Task:
        def remote(self, words: list[str]) -> None:
            ran.append(words)
            if "1/2" in words:  # the last one to finish merges
                write_run(out, [(make_item(), Verdict("right", said="B"), make_story())])

    def remote(**resources: float):
        asked.update(resources)
        return lambda function: Task()

    fake = types.ModuleType("ray")
    fake.is_initialized = lambda: True  # type: ignore[attr-defined]
    fake.remote = remote  # type: ignore[attr-defined]
    fake.get = lambda waiting: waiting  # type: ignore[attr-defined]
    fake.nodes = lambda: [  # type: ignore[attr-defined]
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"GPU": 8.0}},
    ]
    monkeypatch.setitem(sys.modules, "ray", fake)
    shared = ["eval", "--benchmark", "world", "--cache", str(tmp_path), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["vzoom", *shared, "--ray", "2", "--gpus=2"])
    assert main(sys.argv[1:]) == 2
    assert "machines have 1 at most; --gpus 0" in capsys.readouterr().err
    assert ran == []
    monkeypatch.setattr(sys, "argv", ["vzoom", *shared, "--ray", "2", "--gpus", "0.5"])
    assert main(sys.argv[1:]) == 0
    assert "accuracy        1.0\n" in capsys.readouterr().out  # of the whole run, by the driver
    assert ran == [[*shared, "--shard", "0/2"], [*shared, "--shard", "1/2"]]
    assert asked == {"num_cpus": 1, "num_gpus": 0.5}


def test_without_ray_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["eval", "--benchmark", "world", "--cache", str(tmp_path), "--out", "x", "--ray", "2"]
    assert main(words) == 2
    assert "ray is not installed: run pip install '.[ray]' in the source tree" in capsys.readouterr().err


def test_durations() -> None:
    assert [duration_text(s) for s in (5, 89, 120, 7200)] == ["5 s", "89 s", "2 min", "2.0 h"]


def test_a_run_and_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = tmp_path / "videos", tmp_path / "run"
    words = ["eval", "--benchmark", "world", "--cache", str(root), "--out", str(out), "--limit", "2", "--json"]
    assert main([*words, "--policy", "uniform", "--budget", "16"]) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out)
    assert figures["total"] == 2
    assert figures["frames"] == 16
    assert figures["zooms"] == 0
    assert "2/2" in printed.err
    assert main([*words, "--policy", "uniform", "--budget", "16"]) == 0  # done before: nothing is asked
    again = capsys.readouterr()
    assert json.loads(again.out) == figures
    assert "2/2" not in again.err
    assert main([*words, "--policy", "zoom"]) == 2
    assert "other settings" in capsys.readouterr().err
    page = tmp_path / "page.html"
    assert main(["report", str(out), "--cache", str(root), "--out", str(page)]) == 0
    assert 'class="frame"' in page.read_text(encoding="utf-8")


def test_a_sweep_is_a_run_a_setting_and_goes_on_where_it_was_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "zooms"
    words = ["eval", "--benchmark", "world", "--cache", str(tmp_path / "videos"), "--limit", "1"]
    sweep = [*words, "--sweep", "zooms", "--out", str(out), "--json"]
    assert main(sweep) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert list(runs) == [f"zooms-{k}" for k in range(5)]
    assert runs["zooms-0"]["zooms"] == 0 < runs["zooms-4"]["zooms"]
    assert [read_settings(out / name / PREDICTIONS)["zoom"]["max_zooms"] for name in runs] == [0, 1, 2, 3, 4]
    # Killed before its last point: only that one is asked again, and comes to the same.
    shutil.rmtree(out / "zooms-4")
    before = {name: (out / name / PREDICTIONS).stat().st_mtime_ns for name in list(runs)[:4]}
    assert main(sweep) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["runs"]["zooms-4"]["content_hash"] == runs["zooms-4"]["content_hash"]
    assert printed.err.count("1/1") == 1
    assert before == {name: (out / name / PREDICTIONS).stat().st_mtime_ns for name in before}
    # A point is the ordinary run with that setting.
    assert main([*words, "--max-zooms", "1", "--out", str(tmp_path / "one")]) == 0
    assert content_hash(tmp_path / "one" / PREDICTIONS) == runs["zooms-1"]["content_hash"]


def test_revision_is_the_models_and_data_revision_the_benchmarks() -> None:
    words = ["eval", "--benchmark", "world", "--out", "run", "--data-revision", "d1", "--revision", "m1"]
    args = build_parser().parse_args(words)
    (one,) = eval_command._runs(args)
    assert (one.config.revision, args.revision) == ("d1", "m1")
