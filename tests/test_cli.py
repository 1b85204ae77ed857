"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from browser.sample import make_result

import vzoom
from vzoom.cli import main
from vzoom.cli.console import Style, printable
from vzoom.cli.exit_codes import ExitCode
from vzoom.cli.live import Live
from vzoom.cli.options import add_settings, given
from vzoom.cli.parser import build_parser
from vzoom.config import LIMITS, Sampling, VideoOptions, ZoomConfig
from vzoom.types import Clip, Event, Finished, Malformed, StopReason, TextDelta, TurnEnded, TurnOpened
from vzoom.video import CacheStats, ClipCache
from vzoom.zoomer import Result, embedded_path


class ScriptedZoomer:
    """Plays a conversation made by hand, with the events that the engine sends."""

    def __init__(self, result: Result) -> None:
        self.result, self.config, self.name, self.is_embedded = result, ZoomConfig(), "embedded", True
        self.device = SimpleNamespace(type="cpu")
        self.info = SimpleNamespace(sampling=Sampling(), notes=(), warnings=())
        self.clip_cache = ClipCache()
        self.asked: dict[str, Any] = {}
        self.loaded: dict[str, Any] = {}

    def cache_stats(self) -> dict[str, CacheStats]:
        return {"features": CacheStats(hits=1, misses=3, evictions=0, num_frames=3, num_bytes=300)}

    def ask(
        self,
        video: str | Path,
        question: str,
        *,
        sampling: Sampling | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> Result:
        self.asked = {"video": video, "question": question, "sampling": sampling, "config": self.config}
        for event in events(self.result) if on_event else ():
            on_event(event)
        return self.result


def events(result: Result) -> list[Event]:
    sent: list[Event] = []
    clips = iter(result.clips)
    fetched: Clip | None = result.glance
    for turn in result.trajectory.turns:
        sent.append(TurnOpened(0, turn, fetched))
        sent += [TextDelta(0, letter) for letter in turn.text]
        fetched = next(clips) if turn.pts_seconds else None
        sent.append(TurnEnded(0, turn, fetched))
    return [*sent, Finished(0, result.trajectory)]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedZoomer:
    zoomer = ScriptedZoomer(make_result())

    def load(model: str, *, limits: dict[str, Any], **options: Any) -> ScriptedZoomer:
        zoomer.config, zoomer.loaded = zoomer.config.override(**limits), {"model": model, **options}
        return zoomer

    monkeypatch.setattr(vzoom, "load", load)
    return zoomer


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "small.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"preset": "ultrafast"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for i in range(16):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 10 * i, np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def run(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vzoom", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


# ---------------------------------------------------------------- help, version, start-up


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("ask",),
        ("data", "show"),
        ("data", "check"),
        ("data", "import"),
        ("demo",),
        ("doctor",),
        ("verify",),
        ("synthetic", "render"),
        ("synthetic", "eval"),
    ],
)
def test_help_has_examples(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*words, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert "examples:\n  vzoom " in out
    assert all(len(line) <= 120 for line in out.splitlines() if line.startswith("  vzoom "))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"vzoom {vzoom.__version__}\n"


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = "import sys, vzoom.cli.parser as p; p.build_parser(); print(*{'torch', 'numpy', 'av'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
    # CPU seconds, and the best of three: other programs may keep this machine busy.
    spent = []
    for _ in range(3):
        before = os.times()
        assert run("--help").returncode == 0
        after = os.times()
        spent.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(spent) < 0.3


# ---------------------------------------------------------------- flags


def flags() -> dict[str, list[tuple[str, argparse.Action]]]:
    """Every flag of every command but `vzoom train`, whose flags are those of `python -m vzoom.train`."""
    found: dict[str, list[tuple[str, argparse.Action]]] = {}

    def walk(parser: argparse.ArgumentParser) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, below in action.choices.items():
                    if name != "train":
                        walk(below)
            for flag in action.option_strings:
                found.setdefault(flag, []).append((parser.prog, action))

    walk(build_parser())
    return found


OUT = ("-o", "--out")


def meaning(flag: str, action: argparse.Action) -> str:
    """The help without what may differ: defaults, what --model is for, what --out makes."""
    text = re.sub(r" \(default[^)]*\)", "", str(action.help) % vars(action))
    if flag == "--model":
        return text.partition(": ")[2]
    return text.partition(": ")[0] if flag in OUT else text


def test_a_flag_means_the_same_in_every_command() -> None:
    shared = {flag: uses for flag, uses in flags().items() if len(uses) > 1 and flag not in ("-h", "--help")}
    assert {"--out", "--cache", "--model", "--limit", "--max-sessions", "--seed", "--json"} <= set(shared)
    for flag, uses in shared.items():
        kinds = {action.type for _, action in uses if flag not in OUT}
        assert len(kinds) <= 1, f"{flag} is read in {len(kinds)} ways: {[prog for prog, _ in uses]}"
        meanings = {meaning(flag, action): prog for prog, action in uses}
        if flag == "--report":  # the demo writes one anyway
            continue
        assert len(meanings) == 1, f"{flag} means several things: {meanings}"


def test_limits_have_one_name_and_no_default_of_their_own() -> None:
    found = flags()
    for name in LIMITS:
        uses = found["--" + name.replace("_", "-")]
        assert {prog for prog, _ in uses} == {"vzoom ask", "vzoom eval", "vzoom synthetic eval"}
        assert {action.default for _, action in uses} == {None}  # the checkpoint's own
    gone = {"--glance-frames", "--zoom-frames", "--root", "--keep", "--save", "--batch", "--student", "--zooms"}
    assert not gone & set(found)


def test_what_the_user_gives_is_all_that_is_given() -> None:
    parser = argparse.ArgumentParser()
    add_settings(parser, Sampling, ("temperature", "top_p", "top_k"))
    assert given(parser.parse_args([]), Sampling) == {}
    assert given(parser.parse_args(["--top-k", "0", "--temperature", "0.5"]), Sampling) == {
        "top_k": 0,
        "temperature": 0.5,
    }
    assert f"(default: {Sampling.top_p:g})" in parser.format_help()


# ---------------------------------------------------------------- ask


def test_ask_streams_text_and_zooms(scripted: ScriptedZoomer, video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", str(video), "Which?"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == (
        "glance  48 frames, 0.00–123.38 s · 640 tokens · decode 57 ms · patches 13 ms · vision 168 ms · prefill 123 ms"
    )
    turns = scripted.result.trajectory.turns
    written = [lines.index(turn.text) for turn in turns]  # each turn on a line of its own, letter for letter
    assert written == sorted(written)
    zooms = [line for line in lines if line.startswith("zoom ")]
    assert zooms[0].startswith("zoom 1  40.00–44.00 s, 16 frames at 4 fps · 310 tokens · decode 41 ms")
    assert zooms[1].startswith("zoom 2  120.00–126.00 s, 12 frames at 2 fps · 230 tokens · decode 41 ms")
    assert lines[written[1] + 2].startswith('refused  reversed: {"segment": [52, 50], "fps": 4} · 640 tokens')
    assert lines[-2:] == ["answer  B", "2 zooms · 76 frames seen · 1820 tokens read, 187 written · 3.2 s"]
    assert "nothing but vzoom's own synthetic videos" in err
    assert "--model zsgvivo/videozoomer" in err
    assert "\x1b" not in out + err


def test_ask_json_is_one_object_and_nothing_else(
    scripted: ScriptedZoomer, video: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    report = tmp_path / "out.html"
    assert main(["ask", str(video), "Which?", "--json", "--report", str(report)]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert out.count("\n") == 1
    assert found["answer"] == "B"
    assert found["stop_reason"] == "answered"
    first, second = found["zooms"]
    assert (first["start_seconds"], first["end_seconds"], first["fps"], first["frames"]) == (40.0, 44.0, 4.0, 16)
    assert first["pts_seconds"] == [40 + i / 4 for i in range(16)]
    assert second["end_seconds"] == 126.0
    assert found["tokens_prefilled"] == 640 + 310 + 640 + 230
    assert found["tokens_sampled"] == 61 + 38 + 61 + 27
    assert found["milliseconds"] == pytest.approx(
        {"decode": 180.4, "patches": 41.8, "vision": 528.0, "prefill": 387.2, "generate": 2252.8}
    )
    assert found["model"] == scripted.result.model
    assert found["seconds"] == 3.21
    assert found["report"] == str(report)
    assert found["caches"]["features"]["hit_rate"] == 0.25
    assert "<!doctype html>" in report.read_text()
    assert "knows nothing but" in err


def test_ask_passes_its_options_on(scripted: ScriptedZoomer, video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "--temperature 0.7 --top-p 0.9 --top-k 5 --seed 3 --max-zooms 2 --glance-max-frames 7 --max-pixels 50000 "
        "--glance keyframe --json"
    )
    assert main(["ask", str(video), "Which?", *words.split()]) == 0
    assert scripted.asked["question"] == "Which?"
    assert scripted.asked["sampling"] == Sampling(temperature=0.7, top_p=0.9, top_k=5, seed=3)
    assert scripted.asked["config"] == ZoomConfig(max_zooms=2, glance_max_frames=7, max_pixels=50000, glance="keyframe")
    assert json.loads(capsys.readouterr().out)["answer"] == "B"
    words = (
        "--model some/where --revision v2 --adapter lora --device cpu --dtype bfloat16 "
        "--video-backend pyav --video-stream 0 --video-threads 2 --video-deadline 9"
    )
    assert main(["ask", str(video), "Which?", *words.split()]) == 0
    told = {
        "model": "some/where",
        "adapter": "lora",
        "revision": "v2",
        "protocol": None,
        "engine": "vzoom",
        "vllm": {},
        "system": None,
        "device": "cpu",
        "dtype": "bfloat16",
        "max_sessions": 1,
        "video": VideoOptions(backend="pyav", stream=0, num_threads=2, deadline_seconds=9.0),
    }
    assert scripted.loaded == told | {"progress": None}  # no terminal


def test_another_model_is_not_warned_about(
    scripted: ScriptedZoomer, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", str(video), "Which?", "--model", "some/where"]) == 0
    assert capsys.readouterr().err == ""


def test_no_answer_says_why(video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    zoomer = ScriptedZoomer(make_result(answer=None, stop_reason=StopReason.TURN_TOKENS))
    monkeypatch.setattr(vzoom, "load", lambda model, **options: zoomer)
    assert main(["ask", str(video), "Which?"]) == 4
    assert "no answer: a turn reached its limit of new tokens (--max-new-tokens)" in capsys.readouterr().out


def test_an_answer_without_tags_is_marked(
    video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = make_result(answer="It is red.")
    monkeypatch.setattr(vzoom, "load", lambda model, **options: ScriptedZoomer(result))
    for untagged in (False, True):
        result.trajectory.answer_is_untagged = untagged
        assert main(["ask", str(video), "Which?"]) == 0
        assert ("(without tags: this model was not trained for them)" in capsys.readouterr().out) is untagged
        assert main(["ask", str(video), "Which?", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["answer_is_untagged"] is untagged


def test_control_characters_of_the_model_do_not_reach_the_terminal() -> None:
    stream = io.StringIO()
    result = make_result(thought="\x1b[2Jgone\x9b31m\rover", answer="\x1b]0;title\x07B")
    live = Live(stream)
    for event in events(result):
        live(event)
    live.result(result)
    assert not set(stream.getvalue()) & {"\x1b", "\x9b", "\r", "\x07"}
    assert "\ufffd[2Jgone\ufffd31m\ufffdover" in stream.getvalue()
    assert printable("a\tb\nc") == "a\tb\nc"


# ---------------------------------------------------------------- what users do wrong


def one_line_error(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """stderr of a command that must fail with exit code 2, one line of stderr and nothing on stdout."""
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


def test_files_that_are_no_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing, text, sound = tmp_path / "missing.mp4", tmp_path / "notes.mp4", tmp_path / "sound.wav"
    text.write_text("shopping list\n" * 50)
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for path in (missing, text, sound):
        for extra in ((), ("--json",)):
            assert path.name in one_line_error(capsys, "ask", path, "What?", *extra)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--temperature", "-1"], "temperature must be 0 or more, got -1"),
        (["--top-p", "0"], "top_p must be in (0, 1]"),
        (["--glance-max-frames", "0"], "glance_max_frames must be above 0"),
        (["--max-zooms", "-3"], "max_zooms must be 0 or more, got -3"),
    ],
)
def test_bad_values(words: list[str], hint: str, video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hint in one_line_error(capsys, "ask", video, "What?", *words)


def test_an_empty_question(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "question is empty" in one_line_error(capsys, "ask", video, "  ")


def test_models_that_are_not_there(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path) in one_line_error(capsys, "ask", video, "What?", "--model", tmp_path)
    error = one_line_error(capsys, "ask", video, "What?", "--model", "no-such-owner/no-such-model")  # offline here
    assert "--model no-such-owner/no-such-model: name a folder with a checkpoint" in error
    error = one_line_error(capsys, "ask", video, "What?", "--model", "./nowhere")
    assert "--model ./nowhere: no such folder" in error


def test_a_full_gpu_says_what_to_lower(
    scripted: ScriptedZoomer, video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: Any, **options: Any) -> Result:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(scripted, "ask", full)
    assert "lower --max-total-tokens" in one_line_error(capsys, "ask", video, "What?", "--model", "some/where")


@pytest.mark.parametrize(
    ("path", "hint"), [("match.mp4", "must end in .html"), ("/nowhere/out.html", "folder /nowhere does not exist")]
)
def test_a_report_that_cannot_be_written(path: str, hint: str, video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["ask", str(video), "What?", "--report", path])
    assert exit_.value.code == 2
    assert hint in capsys.readouterr().err


def test_traceback_when_asked_for(tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError)):
        main(["--traceback", "ask", str(tmp_path / "missing.mp4"), "What?"])


def test_a_missing_package_is_named(
    video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "vzoom doctor" in one_line_error(capsys, "ask", video, "What?", "--model", embedded_path())


def test_synthetic_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "from 32 to 3600, got 5" in one_line_error(
        capsys, "synthetic", "render", "--out", tmp_path / "w.mp4", "--seconds", "5"
    )
    with pytest.raises(SystemExit):
        main(["synthetic", "render", "--out", str(tmp_path / "w.json")])
    assert "must end in .mp4" in capsys.readouterr().err


# ---------------------------------------------------------------- interrupts, pipes, colours


def test_ctrl_c_is_one_line(
    scripted: ScriptedZoomer, video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: Any, **options: Any) -> Result:
        raise KeyboardInterrupt

    monkeypatch.setattr(scripted, "ask", interrupted)
    assert main(["ask", str(video), "What?", "--model", "some/where"]) == 130
    assert capsys.readouterr().err == "\nvzoom ask: stopped by Ctrl-C\n"


def test_a_conversation_without_an_answer_has_its_own_code(
    scripted: ScriptedZoomer, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ask", str(video), "What?", "--model", "some/where"]
    assert main(words) == 0
    scripted.result.trajectory.answer, scripted.result.trajectory.stop_reason = None, StopReason.ROUNDS
    assert main(words) == ExitCode.UNANSWERED == 4
    assert main([*words, "--json"]) == 4
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["answer"] is None


def test_an_error_that_nobody_expects_is_one_line(
    scripted: ScriptedZoomer, video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: Any, **options: Any) -> Result:
        raise KeyError("a bug\nof ours")

    monkeypatch.setattr(scripted, "ask", broken)
    words = ["ask", str(video), "What?", "--model", "some/where"]
    assert main(words) == ExitCode.UNEXPECTED == 70
    err = capsys.readouterr().err
    assert err.startswith("vzoom ask: unexpected KeyError: ")
    assert "--traceback" in err
    assert err.count("\n") == 1
    with pytest.raises(KeyError):
        main(["--traceback", *words])


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [
        sys.executable,
        "-m",
        "vzoom",
        "synthetic",
        "render",
        "--out",
        str(tmp_path / "w.mp4"),
        "--seconds",
        "32",
    ]
    done = subprocess.run([*command, "--json"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_only_on_a_terminal_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert Style(Terminal())("x", "red") == "\x1b[1;31mx\x1b[0m"
    assert Style(io.StringIO())("x", "red") == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert Style(Terminal())("x", "red") == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert Style(Terminal())("x", "red") == "x"


def test_lines_stay_whole_with_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    plain, coloured = io.StringIO(), Terminal()
    for stream in (plain, coloured):
        live = Live(stream)
        for event in events(make_result()):
            live(event)
    bare = coloured.getvalue()
    for code in ("\x1b[2m", "\x1b[36m", "\x1b[1;31m", "\x1b[0m"):
        assert code in bare
        bare = bare.replace(code, "")
    assert bare == plain.getvalue()


def test_output_in_a_poor_encoding_does_not_fail(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = run("ask", tmp_path / "fehlt–ä.mp4", "What?", env=environment)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_refused_events_are_what_the_engine_sends() -> None:
    sent = events(make_result())
    ended = [event for event in sent if isinstance(event, TurnEnded)]
    assert [event.clip is not None for event in ended] == [True, False, True, False]
    assert isinstance(ended[1].turn.outcome, Malformed)
