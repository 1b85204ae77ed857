"""A benchmark's files from the hub: fetched into a folder, and the archives among them unpacked in place.

What was fetched or unpacked before is not fetched or unpacked again, so a stopped command resumes.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ..data import write_atomically
from .item import Benchmark

_UNPACKED = ".unpacked.json"  # archives that are, with their sizes
# An archive, or a part of one that was split: videos.tar.part.aa, videos.tar.gz.part-001, videos.tar.00
_ARCHIVE = re.compile(r"(?P<whole>.+\.(?:tar|tar\.gz|tgz|zip))(?P<part>\.(?:part[._-]?)?(?:[a-z]{2}|\d+))?")
_FULL_HASH = 40


def fetch(
    benchmark: Benchmark, root: Path, *, revision: str | None = None, say: Callable[[str], None] = print
) -> tuple[int, int]:
    """Bring a benchmark's data set into a folder.

    Args:
        benchmark: on the hub.
        root: the folder; it is made if it is missing.
        revision: of the data set; None is the benchmark's own.
        say: gets a line for every step.

    Returns:
        How many of the benchmark's videos are there, and how many it names.

    Raises:
        ValueError: the benchmark is not on the hub, the terms of the data set must be accepted first, or an archive
            cannot be unpacked.
        OSError: the hub cannot be reached.
    """
    if not benchmark.hub_id:
        raise ValueError(f"{benchmark.name} is rendered when it is asked: there is nothing to fetch")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    root.mkdir(parents=True, exist_ok=True)
    try:
        commit = _whole_hash(benchmark.hub_id, revision or benchmark.revision)
        say(f"fetching {benchmark.hub_id} at {commit or 'its newest revision'} into {root}")
        snapshot_download(benchmark.hub_id, repo_type="dataset", revision=commit, local_dir=root)
    except GatedRepoError as error:
        raise ValueError(
            f"{benchmark.hub_id} is given to those who accept its terms: do so on its page, then run `hf auth login`"
        ) from error
    unpack(root, say=say)
    videos = {item.video: item for item in benchmark.load(root)}
    return sum(benchmark.video_path(root, item) is not None for item in videos.values()), len(videos)


def unpack(root: Path, *, say: Callable[[str], None] = print) -> None:
    """Unpack every archive below `root` into its own folder. ValueError if one is broken, or reaches out of it."""
    record = root / _UNPACKED
    done: dict[str, int] = json.loads(record.read_text()) if record.exists() else {}
    for whole, parts in sorted(_archives(root).items()):
        name, size = str(whole.relative_to(root)), sum(part.stat().st_size for part in parts)
        if done.get(name) == size:
            continue
        say(f"unpacking {name}, {size / 1e9:.1f} GB")
        try:
            if whole.suffix == ".zip":
                _unzip(whole, parts)
            else:
                with io.BufferedReader(_Joined(parts)) as file, tarfile.open(fileobj=file, mode="r|*") as archive:
                    archive.extractall(whole.parent, filter="data")
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{whole}: {error}; remove it and run the same command again") from error
        done[name] = size
        write_atomically(record, json.dumps(done, indent=1))


def _unzip(whole: Path, parts: Sequence[Path]) -> None:
    if parts != [whole]:
        raise ValueError(f"{whole} is in {len(parts)} parts, and zip files can be read whole only: join them")
    with zipfile.ZipFile(whole) as archive:
        archive.extractall(whole.parent)


def _archives(root: Path) -> dict[Path, list[Path]]:
    """Archives by name, each with the files that make it up, in order."""
    found: dict[Path, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        match = _ARCHIVE.fullmatch(path.name)
        if match and path.is_file() and ".cache" not in path.relative_to(root).parts:
            found.setdefault(path.with_name(match["whole"]), []).append(path)
    return found


def _whole_hash(hub_id: str, revision: str | None) -> str | None:
    """The whole hash of a commit, from its first digits: the hub takes no others. Names of branches stay as is."""
    if revision is None or len(revision) == _FULL_HASH or not re.fullmatch(r"[0-9a-f]{7,}", revision):
        return revision
    from huggingface_hub import HfApi

    found = [c.commit_id for c in HfApi().list_repo_commits(hub_id, repo_type="dataset")]
    match = [commit for commit in found if commit.startswith(revision)]
    if len(match) != 1:
        raise ValueError(f"{hub_id} has {len(match)} commits that begin with {revision}: name another with --revision")
    return match[0]


class _Joined(io.RawIOBase):
    """Files read as one, one after the other."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._left = list(paths)
        self._file: io.BufferedReader | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            if self._file is None:
                if not self._left:
                    return 0
                self._file = self._left.pop(0).open("rb")
            if count := self._file.readinto(buffer):
                return count
            self._file.close()
            self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()
