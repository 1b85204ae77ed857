"""A benchmark's files from the hub: fetched into a folder, and the archives among them unpacked in place.

What was fetched or unpacked before is not fetched or unpacked again, so a stopped command resumes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from .item import Benchmark
from .unpack import unpack

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
