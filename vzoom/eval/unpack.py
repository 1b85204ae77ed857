"""Archives of a benchmark, unpacked beside themselves: each as a whole, or nothing of it.

An archive is a stranger's. It may hold files and folders below its own folder and nothing else: no links, no devices,
no path twice. It is unpacked into a folder of its own, whose files are moved into place when all of them are right. How
much it may take is bounded by its own size and by the free disk, whatever its headers say.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from ..data import read_json, write_json

_UNPACKED = ".unpacked.json"  # archives that are, with their sizes
# An archive, or a part of one that was split: videos.tar.part.aa, videos.tar.gz.part-001, videos.tar.00
_ARCHIVE = re.compile(r"(?P<whole>.+\.(?:tar\.gz|tgz|tar|zip))(?P<part>\.(?:part[._-]?)?(?:[a-z]{2}|\d+))?")
_STAGING = ".unpacking"  # what the name of the folder ends in

# Videos hardly shrink, texts by ten: an archive that grows a hundredfold was made to fill disks.
_MOST_GROWTH = 100
_FREE_BYTES = 16 << 20  # that any archive may take
_FILE_BYTES = 4096  # that a file takes at least: many empty files fill a disk, too
_CHUNK_BYTES = 1 << 20  # read at once; no header of a tar archive is larger
_TAR_BLOCK = 512
_GZIP_MAGIC = b"\x1f\x8b"


def unpack(root: Path, *, say: Callable[[str], None] = print) -> None:
    """Unpack every archive below a folder, each into the folder that it is in. Archives in archives stay packed.

    Args:
        root: the folder. What is unpacked is written down there, and not unpacked again.
        say: gets a line for every archive.

    Raises:
        ValueError: an archive is broken, or holds what no archive may hold. Nothing of it is left, those before it are
            unpacked.
        OSError: the disk is full, or may not be written.
    """
    record = root / _UNPACKED
    done = _read_record(record)
    archives = _archives(root)
    kept = {record, *(part for parts in archives.values() for part in parts)}
    for whole, parts in sorted(archives.items()):
        name, size = str(whole.relative_to(root)), _size(parts)
        if done.get(name) == size:
            continue
        say(f"unpacking {name}, {size / 1e9:.1f} GB")
        with _Staging.beside(whole, size) as staging:
            try:
                (_unzip if whole.suffix == ".zip" else _untar)(whole, parts, staging)
                staging.move_into_place(kept)
            except _BROKEN as error:
                raise ValueError(f"{whole}: {error}; remove it and run the same command again") from error
        done[name] = size
        for inner, inner_parts in _archives(root).items():
            if inner not in archives:  # the next call must not take it for one of the benchmark's
                done[str(inner.relative_to(root))] = _size(inner_parts)
        write_json(record, done)


def _read_record(record: Path) -> dict[str, int]:
    mend = "remove it, and every archive is unpacked again"
    done = read_json(record, mend=mend) if record.exists() else {}
    if not all(isinstance(size, int) for size in done.values()):
        raise ValueError(f"{record} is damaged (it holds no sizes): {mend}")
    return done


class _Refused(ValueError):
    """An archive holds what none may hold."""


# What reading a broken archive raises: a ValueError for names that are no UTF-8 and numbers that are none, and more.
_BROKEN = (
    ValueError,
    OverflowError,
    NotImplementedError,
    EOFError,
    struct.error,
    zlib.error,
    gzip.BadGzipFile,
    tarfile.TarError,
    zipfile.BadZipFile,
)


@dataclass
class _Staging:
    """A folder that takes what an archive holds until all of it is there.

    Args:
        folder: it.
        target: where its files go in the end.
        bytes_left: how much may still be put in.
    """

    folder: Path
    target: Path
    bytes_left: int

    @classmethod
    @contextmanager
    def beside(cls, archive: Path, archive_bytes: int) -> Iterator[_Staging]:
        """A new folder beside the archive, which is gone at the end."""
        folder = archive.with_name(f".{archive.name}{_STAGING}")
        shutil.rmtree(folder, ignore_errors=True)  # of a command that was killed
        folder.mkdir()
        try:
            yield cls(folder, archive.parent, _FREE_BYTES + _MOST_GROWTH * archive_bytes)
        finally:
            shutil.rmtree(folder)

    def add_folder(self, name: str) -> None:
        """Make a folder. It may be there."""
        self._take(name, 0)
        try:
            self._place(name).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise _Refused(f"it holds {name!r} as a file and as a folder") from None

    def add_file(self, name: str, size: int, content: IO[bytes]) -> None:
        """Write a file of just so many bytes."""
        self._take(name, size)
        path = self._place(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            out = path.open("xb")
        except (FileExistsError, NotADirectoryError):
            raise _Refused(f"it holds {name!r} twice") from None
        left = size
        with out:
            while left:
                chunk = content.read(min(left, _CHUNK_BYTES))
                if not chunk:
                    raise EOFError(f"{name!r} ends after {size - left} of {size} bytes")
                out.write(chunk)
                left -= len(chunk)

    def move_into_place(self, kept: Collection[Path]) -> None:
        """Move every file to where it belongs, in place of what is there. kept: files that none may replace."""
        files = sorted(path for path in self.folder.rglob("*") if not path.is_dir())
        places = [(path, self.target / path.relative_to(self.folder)) for path in files]
        for path, place in places:
            name = str(path.relative_to(self.folder))
            if place in kept:
                raise _Refused(
                    f"{name!r} would take the place of an archive, or of the list of those that are unpacked"
                )
            if place.is_dir() or any(parent.exists() and not parent.is_dir() for parent in place.parents):
                raise _Refused(f"{name!r} would take the place of a folder or of a file above it in {self.target}")
        for path, place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)

    def _take(self, name: str, size: int) -> None:
        if size < 0:
            raise _Refused(f"{name!r} has {size} bytes")
        self.bytes_left -= max(size, _FILE_BYTES)
        if self.bytes_left < 0:
            raise _Refused(f"it unpacks to more than {_MOST_GROWTH} times its size, from {name!r} on")
        if size > (free := shutil.disk_usage(self.folder).free):
            raise _Refused(f"{name!r} takes {size} bytes, and the disk has {free} left: make room on it")

    def _place(self, name: str) -> Path:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or "\0" in name:
            raise _Refused(f"{name!r} is no path below the archive's folder")
        return self.folder / path


def _unzip(whole: Path, parts: Sequence[Path], staging: _Staging) -> None:
    if list(parts) != [whole]:
        raise _Refused(f"it is in {len(parts)} parts, and zip files can be read whole only: join them")
    with zipfile.ZipFile(whole) as archive:
        for member in archive.infolist():
            name, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
            if member.flag_bits & 0x1:
                raise _Refused(f"{name!r} is encrypted")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _Refused(f"{name!r} is a link or a device")
            if member.is_dir():
                staging.add_folder(name)
                continue
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _Refused(f"{name!r} is compressed by method {member.compress_type}, neither stored nor deflated")
            with archive.open(member) as content:
                staging.add_file(name, member.file_size, content)
                if content.read(1):  # also checks the checksum
                    raise _Refused(f"{name!r} is longer than it says")


def _untar(whole: Path, parts: Sequence[Path], staging: _Staging) -> None:
    with io.BufferedReader(_Joined(parts)) as joined:
        raw: io.BufferedIOBase = gzip.GzipFile(fileobj=joined) if joined.peek(2)[:2] == _GZIP_MAGIC else joined
        stream = _Forward(raw, most_bytes=_FREE_BYTES + _MOST_GROWTH * _size(parts))
        with tarfile.open(fileobj=stream, mode="r:") as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                archive.members.clear()  # it would keep them all
                if member.isdir():
                    staging.add_folder(member.name)
                elif member.isreg() and not member.issparse():
                    content = archive.extractfile(member)
                    assert content is not None, "a file without content"
                    staging.add_file(member.name, member.size, content)
                else:
                    raise _Refused(f"{member.name!r} is a link, a device or a file with holes")
        # tarfile takes a header that it cannot read for the end.
        if stream.last != bytes(_TAR_BLOCK):
            raise EOFError("it has no end: it is damaged, or a part of it is missing")
        while rest := stream.read(_CHUNK_BYTES):  # to the end, so that gzip compares its checksum
            if rest.strip(b"\0"):
                raise _Refused("it continues after its end")


def _archives(root: Path) -> dict[Path, list[Path]]:
    """Archives by name, each with the files that make it up, in order."""
    found: dict[Path, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        match = _ARCHIVE.fullmatch(path.name)
        if match and path.is_file() and not any(_is_aside(part) for part in path.relative_to(root).parts):
            found.setdefault(path.with_name(match["whole"]), []).append(path)
    return found


def _is_aside(name: str) -> bool:
    """Whether a folder is the hub's own, or one that a killed command left."""
    return name == ".cache" or name.endswith(_STAGING)


def _size(parts: Sequence[Path]) -> int:
    return sum(part.stat().st_size for part in parts)


class _Forward:
    """What tarfile reads from: forward only, a bounded part at a time, and a bounded number of bytes in all.

    Its headers say how long they are, up to 2^63, and where the next one is, which may be before them.

    Attributes:
        last: the newest bytes that were read.
    """

    def __init__(self, raw: io.BufferedIOBase, *, most_bytes: int) -> None:
        self._raw, self._left, self._at = raw, most_bytes, 0
        self.last = b""

    def tell(self) -> int:
        return self._at

    def seek(self, to: int) -> None:
        if to < self._at:
            raise tarfile.ReadError("its headers lead back to what was read")
        while self._at < to and self.read(min(to - self._at, _CHUNK_BYTES)):
            pass

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _CHUNK_BYTES:
            raise tarfile.ReadError(f"a header of it has {size} bytes")
        self.last = self._raw.read(size)
        self._at += len(self.last)
        self._left -= len(self.last)
        if self._left < 0:
            raise tarfile.ReadError(f"it unpacks to more than {_MOST_GROWTH} times its size")
        return self.last


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
