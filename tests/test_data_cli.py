"""`vzoom data`: what it prints, and its exit codes."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from data_records import OVER_BUDGET, PLAIN, PROMPT, QUESTION, RECORDS, REFLECTION

from vzoom.cli import main
from vzoom.data.record import Record
from vzoom.data.store import Writer
from vzoom.data.videos import refer
from vzoom.synthetic import make_video, render

pytest.importorskip("pyarrow", reason="pyarrow (extra train) is not installed")

SHOWN = """\
record    plain
video     video.mp4 (4.00 s, 56 x 56)
question  Which shape is red?
options   ring, star
reference B
glance    2 frames
turn 1    expert: answer 'B'
stopped   answered

+ learned   - sampled, but in a flawed turn   . fed: prompt, frames, tool turns, end of turn after a call
"""


def write(folder: Path, records: Sequence[Record]) -> str:
    with Writer(folder) as writer:
        for record in records:
            writer.add(record)
    return str(folder)


def test_show_prints_every_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", write(tmp_path / "d", RECORDS)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(SHOWN)
    lines = out.removeprefix(SHOWN).splitlines()
    tokens = [(line[7], line[16:]) for line in lines[:-2]]
    assert tokens[:5] == [(".", "'<|im_start|>'"), (".", "'user'"), (".", "'\\n'"), (".", "'4'"), (".", "'.00s'")]
    assert (".", "'<|image_pad|> of the frame at 2.00 s' x4") in tokens
    assert [text for mark, text in tokens if mark == "+"] == [
        "'<think>'", "'A'", "' star'", "'.'", "'</think>'", "'<answer>'", "'B'", "'</answer>'",
    ]  # fmt: skip
    num_tokens = len(tokens) + 2 * 3
    assert lines[-2:] == ["", f"{num_tokens} tokens: 8 learned, 0 shown, {num_tokens - 8} fed"]


def test_show_another_record_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "d", RECORDS)
    assert main(["data", "show", folder, "--index", "2", "--all"]) == 0
    out = capsys.readouterr().out
    assert "turn 1    student, flawed: zoom 3 s to 4 s at 2 fps, 2 frames" in out
    assert out.count("<|image_pad|>") == 4 * (2 + 2 + 2)
    assert main(["data", "show", folder, "--index", "5"]) == 0
    assert capsys.readouterr().out.endswith("turns     none: a question for RL\n")
    assert main(["data", "show", folder, "--index", "6"]) == 2
    assert "holds 6 records: index must be from 0 to 5, got 6" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_masks_have_colours_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["data", "show", write(tmp_path / "d", [REFLECTION])]) == 0
    lines = [line for line in stream.getvalue().splitlines() if line.startswith("\x1b[")]
    codes = {".": "2", "-": "31", "+": "32"}
    marks = [line.removesuffix("\x1b[0m").partition("m")[2][7] for line in lines]
    assert set(marks) == set(codes)
    for line, mark in zip(lines, marks, strict=True):
        assert line.startswith(f"\x1b[{'' if mark == '.' else '1;'}{codes[mark]}m")


def test_control_characters_stay_out_of_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "d", [replace(PROMPT, reference="\x1b[2Jhi")])
    assert main(["data", "show", folder]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "d", RECORDS)
    assert main(["data", "check", folder]) == 0
    assert capsys.readouterr().out == f"{folder}: 6 records, all well\n"
    assert main(["data", "check", folder, "--model", "embedded"]) == 0
    assert "6 records, " in capsys.readouterr().out
    assert main(["data", "check", folder, "--hash-videos"]) == 1
    assert "record 0 (plain): video.mp4" in capsys.readouterr().err
    # Fields that agree, but a call that would have been carried out: only the tokens tell.
    roomy = replace(OVER_BUDGET, config=replace(OVER_BUDGET.config, max_frames=20))
    other = write(tmp_path / "e", [PLAIN, roomy])
    assert main(["data", "check", other]) == 0
    assert main(["data", "check", other, "--model", "embedded"]) == 1
    assert "record 1 (over-budget): turn 1 is Malformed" in capsys.readouterr().err


def test_check_tells_of_records_that_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "d", [PLAIN])
    with Writer(folder) as writer:
        writer.add(PROMPT)
        assert main(["data", "check", folder]) == 0
    assert "1 more are in the journal" in capsys.readouterr().err
    assert main(["data", "check", folder]) == 0
    assert capsys.readouterr() == (f"{folder}: 2 records, all well\n", "")


def test_check_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_import_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    render(make_video(2), tmp_path / "w.mp4")
    rows = [{"problem": QUESTION, "solution": "B", "videos": ["w.mp4"], "doc_id": n} for n in range(3)]
    (tmp_path / "rl.json").write_text(json.dumps(rows))
    command = ["data", "import", "rl", str(tmp_path / "rl.json"), "--videos", str(tmp_path), "--out"]
    out = str(tmp_path / "q")
    assert main([*command, out]) == 0
    assert main([*command, out]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out}: 3 records added, 0 were there",
        f"{out}: 0 records added, 3 were there",
    ]
    assert main(["data", "check", out, "--hash-videos"]) == 0
    assert refer(tmp_path / "w.mp4").path == str(tmp_path / "w.mp4")
    rows[2]["solution"] = ""
    (tmp_path / "rl.json").write_text(json.dumps(rows))
    assert main([*command, str(tmp_path / "r")]) == 2
    assert "rl.json, row 2: solution must be text" in capsys.readouterr().err
    assert main([*command, out, "--video-list", "x.json"]) == 2
    assert "--video-list is for sft" in capsys.readouterr().err
