"""Long commands on a full disk, and two at once in one folder: one line that names the file, and the same result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="pyarrow (extra train) is not installed")
pytest.importorskip("trl", reason="trl (extra train) is not installed")

TESTS = Path(__file__).parent


def check(found: dict[str, Any]) -> None:
    """What `full_disk.py` says of a task."""
    for line in found["ended"]:
        assert "Traceback" not in line
        assert "\n" not in line
        assert not line or any(sign in line for sign in ("make room", "size of files", "disk fails")), line
    assert found["stopped"] == found["whole"], found["task"]
    first, second = found["two"]
    assert first == ""
    assert second == "" or "in use by another process" in second, second
    assert found["shared"] == found["whole"], found["task"]


def test_each_ends_with_one_line_and_resumes_to_the_same_result(tmp_path: Path) -> None:
    """Two attempts of each on too small a disk; `python tests/fuzz/disk.py --long` makes many, of every command."""
    command = [sys.executable, str(TESTS / "full_disk.py"), str(tmp_path), "1", "2", "eval", "distill", "sft"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["task"] for one in found] == ["eval", "distill", "sft"]
    for one in found:
        check(one)
        assert all(one["ended"])
