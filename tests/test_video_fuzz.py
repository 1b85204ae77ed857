"""The short run of `tests/fuzz/videos.py`."""

from __future__ import annotations

from pathlib import Path

from fuzz.videos import run


def test_damaged_files_end_in_frames_or_documented_errors(tmp_path: Path) -> None:
    total, found = run(80, seed=0, folder=tmp_path)
    assert found == []
    assert total["opened"] > 20
    assert total["refused"] > 10
    assert total["damaged frames"] > 10
