"""A video file -> the reference that a record keeps, and whether a reference still means the same bytes."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from os import PathLike, fspath
from pathlib import Path

from ..video import file_key, is_url, open_video
from .record import VideoRef


def refer(path: str | PathLike[str]) -> VideoRef:
    """Open the video and hash its bytes.

    Args:
        path: a file, which is hashed once as long as it does not change, or a URL, which is not.

    Raises:
        VideoError: it cannot be read.
    """
    with open_video(path) as video:
        info = video.info
    sha256 = None if is_url(path) else _hash_once(file_key(path))
    return VideoRef(fspath(path), sha256, info.duration_seconds, info.fps, info.width, info.height, info.max_fps)


def check_video(ref: VideoRef) -> None:
    """Whether a file still holds the bytes that were recorded. A URL has no hash, and is not checked.

    Raises:
        ValueError: the file holds other bytes.
        OSError: the file is gone.
    """
    if ref.sha256 is not None and (found := _hash_once(file_key(ref.path))) != ref.sha256:
        raise ValueError(f"{ref.path} is another file now: sha256 {found}, recorded {ref.sha256}")


@lru_cache(maxsize=4096)
def _hash_once(key: tuple[str, int, int]) -> str:
    with Path(key[0]).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
