"""A benchmark's files from the hub: a stand-in for the hub's client puts down what a data set holds."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from eval_files import lvbench

from vzoom.cli import main
from vzoom.eval.benchmarks import BENCHMARKS
from vzoom.eval.fetch import fetch, unpack
from vzoom.eval.item import Item

COMMIT = "0caedb9" + "f" * 33


def tar(members: dict[str, bytes], mode: str = "w") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the hub was asked for; `files` is what it gives."""
    state: dict[str, Any] = {"files": {}, "asked": []}

    def snapshot_download(repo_id: str, *, repo_type: str, revision: str | None, local_dir: Path) -> None:
        state["asked"].append((repo_id, repo_type, revision))
        for name, data in state["files"].items():
            path = local_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    class Api:
        def list_repo_commits(self, repo_id: str, *, repo_type: str) -> list[Any]:
            return [SimpleNamespace(commit_id=commit) for commit in ("1" * 40, COMMIT)]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return state


def benchmark() -> Any:
    """LVBench with three items whose videos are a, b and c."""

    def load(root: Path, subtitles: bool) -> Any:
        for name in "abc":
            yield Item(
                id=name,
                benchmark="lvbench",
                video=f"{name}.mp4",
                question="?",
                options=("x", "y"),
                reference="A",
                category="k",
                duration_bucket="",
                subtitles=None,
                source=f"f:{name}",
            )

    return replace(BENCHMARKS["lvbench"], loads=load)


def test_archives_and_their_parts_are_unpacked_once(hub: dict[str, Any], tmp_path: Path) -> None:
    whole = tar({"videos/b.mp4": b"b" * 30_000, "videos/more/x.txt": b"x"}, "w:gz")
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.mp4", b"a")
    cut = len(whole) // 3
    hub["files"] = {
        "videos/a.zip": zipped.getvalue(),
        "videos.tar.gz.part.aa": whole[:cut],
        "videos.tar.gz.part.ab": whole[cut : 2 * cut],
        "videos.tar.gz.part.ac": whole[2 * cut :],
    }
    said: list[str] = []
    assert fetch(benchmark(), tmp_path, say=said.append) == (2, 3)
    assert hub["asked"] == [("zai-org/LVBench", "dataset", COMMIT)]  # the whole hash of the revision
    assert (tmp_path / "videos" / "a.mp4").read_bytes() == b"a"
    assert (tmp_path / "videos" / "b.mp4").read_bytes() == b"b" * 30_000
    assert [line.split(",")[0] for line in said[1:]] == ["unpacking videos/a.zip", "unpacking videos.tar.gz"]
    (tmp_path / "videos" / "a.mp4").unlink()
    said.clear()
    assert fetch(benchmark(), tmp_path, revision="main", say=said.append) == (1, 3)  # not unpacked a second time
    assert len(said) == 1
    assert hub["asked"][-1][2] == "main"


def test_a_broken_archive_is_named_and_others_are_not_unpacked_again(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar({"a.mp4": b"a"}))
    (tmp_path / "b.tar").write_bytes(tar({"b.mp4": b"b" * 2000})[:1000])
    with pytest.raises(ValueError, match=r"b\.tar: .*remove it"):
        unpack(tmp_path, say=lambda line: None)
    assert list(json.loads((tmp_path / ".unpacked.json").read_text())) == ["a.tar"]


def test_nothing_is_written_out_of_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "evil.tar").write_bytes(tar({"../evil.mp4": b"x"}))
    with pytest.raises(ValueError, match="evil"):
        unpack(root, say=lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_what_cannot_be_fetched_is_said(
    hub: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="nothing to fetch"):
        fetch(BENCHMARKS["world"], tmp_path)
    with pytest.raises(ValueError, match="0 commits that begin with abcdef0"):
        fetch(benchmark(), tmp_path, revision="abcdef0")
    assert main(["eval", "--fetch", "--benchmark", "lvbench"]) == 2
    assert "--cache" in capsys.readouterr().err


def test_a_gated_data_set_says_how_to_get_it(
    hub: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.errors import GatedRepoError

    def refused(*args: Any, **kwargs: Any) -> None:
        raise GatedRepoError.__new__(GatedRepoError)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(ValueError, match=r"accept its terms.*hf auth login"):
        fetch(benchmark(), tmp_path)


def test_the_command_line_fetches_and_counts_videos(
    hub: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lvbench(tmp_path)
    name = "video_info.meta.jsonl"
    hub["files"] = {name: (tmp_path / name).read_bytes()}
    command = ["eval", "--fetch", "--benchmark", "lvbench", "--cache", str(tmp_path / "lvbench")]
    assert main(command) == 0
    assert capsys.readouterr().out == "0 of 1 videos are there\n"
    (tmp_path / "lvbench" / "videos").mkdir()
    (tmp_path / "lvbench" / "videos" / "Cm73ma6Ibcs.mp4").touch()
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["videos"] == 1
