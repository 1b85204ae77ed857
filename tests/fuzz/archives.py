"""Archives as a stranger makes them, and damaged ones: what `vzoom eval --fetch` unpacks.

    python tests/fuzz/archives.py [--long] [--seed N]

Each archive is unpacked into a folder between folders that must not change. It may be unpacked as a whole, or be
refused with one line that names it; then nothing of it is left. Whatever it says, it takes no more than it may.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import random
import resource
import shutil
import stat
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from vzoom.eval.unpack import unpack

Draw = random.Random
NUM_SHORT, SECONDS_LONG = 300, 240.0
MOST_SECONDS = 5.0  # of one archive
MOST_BYTES = (16 << 20) + 100 * (1 << 20)  # that one archive of a megabyte may take
MOST_GROWTH_MIB = 300  # of this process's memory

_NAMES = (
    "a.mp4", "b/c.mp4", "b", "b/c.mp4/d", "./a.mp4", "b//c.mp4", "../out.mp4", "b/../../out.mp4", "/tmp/out.mp4", "..",
    "", ".", "/", "a\\..\\..\\out.mp4", "C:\\out.mp4", "café.mp4", "\udce9.mp4", "x" * 300, "b/" * 200 + "a",
    ".unpacked.json", "inner.tar", "inner.zip", "evil.tar", "nul\0.mp4", "line\nfeed.mp4", "\u202emp4.a", ".cache/x",
    "link/out.mp4",
)  # fmt: skip
_TARGETS = ("../out.mp4", "/tmp", "..", "a.mp4", "link", "b/../..", "/etc/passwd", "x/" * 60 + "../" * 70 + "out.mp4")
_TAME = 0.5  # archives as they are meant to be, which only damage makes dangerous
_TYPES = b"0000000000" + b"12345567SLKDVNAgx\0Z"


def tar_of(draw: Draw) -> bytes:
    """A tar archive of members of every kind, plain or compressed, whole or not."""
    made, is_tame = io.BytesIO(), draw.random() < _TAME
    form = draw.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=made, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
        for _ in range(draw.randrange(1, 6)):
            info = tarfile.TarInfo(name_of(draw, is_tame))
            info.type = b"0" if is_tame else bytes([draw.choice(_TYPES)])
            info.linkname = draw.choice(_TARGETS)
            info.mode = draw.choice((0o644, 0o777, 0, 0o6777))
            data = content(draw)
            info.size = len(data)
            if not is_tame and draw.random() < 0.2:
                info.pax_headers = {
                    draw.choice(
                        ("path", "linkpath", "size", "GNU.sparse.size", "GNU.sparse.map", "GNU.sparse.major")
                    ): draw.choice(("../out.mp4", "/tmp/x", "-1", "99999999999999", "0,5,9", "x", "\0", "1"))
                }
            try:
                archive.addfile(info, io.BytesIO(data))
            except (ValueError, UnicodeError, OSError):
                continue  # this format cannot hold it
    data = made.getvalue()
    if not is_tame and draw.random() < 0.3:  # headers that say something else, with the right checksum
        data = lied(bytearray(data), draw)
    return gzip.compress(data, 1) if draw.random() < 0.4 else data


def lied(data: bytearray, draw: Draw) -> bytes:
    at = 512 * draw.randrange(max(1, len(data) // 512))
    header = data[at : at + 512]
    if len(header) < 512:
        return bytes(data)
    start, length = draw.choice(((124, 12), (100, 8), (136, 12), (156, 1), (0, 100), (345, 155), (482, 13), (386, 24)))
    lie = draw.choice(
        (
            b"\xff" * length,
            b"\x80" + b"\x7f" * (length - 1),
            b"7" * length,
            b"-1".ljust(length, b"\0"),
            os.urandom(length),
        )
    )
    header[start : start + length] = lie[:length]
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[at : at + 512] = header
    return bytes(data)


def zip_of(draw: Draw) -> bytes:
    """A zip archive of members of every kind."""
    made, is_tame = io.BytesIO(), draw.random() < _TAME
    with zipfile.ZipFile(made, "w") as archive:
        for _ in range(draw.randrange(1, 6)):
            name = name_of(draw, is_tame).replace("\udce9", "é")
            info = zipfile.ZipInfo(name or "x")
            info.orig_filename = info.filename = name or "x"
            kind = draw.choice(
                (0, 0, 0, stat.S_IFREG, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR)
            )
            info.external_attr = (stat.S_IFREG if is_tame else kind | 0o644) << 16
            info.compress_type = 8 if is_tame else draw.choice((0, 8, 8, 8, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
            try:
                archive.writestr(info, content(draw))
            except (ValueError, UnicodeError):
                continue
    data = bytearray(made.getvalue())
    if not is_tame and draw.random() < 0.3:  # the directory says something else than the members
        for mark, length in ((b"PK\x01\x02", 46), (b"PK\x03\x04", 30)):
            at = data.find(mark)
            if at >= 0 and draw.random() < 0.7:
                place = at + draw.randrange(4, length)
                data[place : place + 4] = draw.choice(
                    (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x01\0\x09\0", os.urandom(4))
                )
    return bytes(data)


def name_of(draw: Draw, is_tame: bool) -> str:
    return f"{draw.choice('abc')}/{draw.randrange(1 << 30)}.mp4" if is_tame else draw.choice(_NAMES)


def content(draw: Draw) -> bytes:
    kind = draw.random()
    if kind < 0.05:
        return bytes(draw.randrange(1 << 20, 32 << 20))  # a bomb
    return os.urandom(draw.choice((0, 1, 511, 512, 513, 5000)))


def damaged(data: bytes, draw: Draw) -> bytes:
    """Bytes of it changed, dropped, repeated, or the end cut off."""
    changed = bytearray(data)
    for _ in range(draw.choice((0, 0, 0, 1, 1, 3, 20))):
        if not changed:
            break
        at = draw.randrange(len(changed))
        kind = draw.randrange(4)
        if kind == 0:
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del changed[at : at + draw.choice((1, 10, 512))]
        elif kind == 2:
            changed[at:at] = changed[at : at + draw.choice((1, 100, 1024))]
        else:
            del changed[at:]
    return bytes(changed)


MAKERS: dict[str, Callable[[Draw], bytes]] = {
    "evil.tar": tar_of,
    "evil.tar.gz": tar_of,
    "evil.tgz": tar_of,
    "evil.zip": zip_of,
}


def seen(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, links as links."""
    held: dict[str, bytes | None] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        held[name] = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return held


def try_one(work: Path, draw: Draw) -> str:
    """Unpack one archive. "unpacked" or "refused"; AssertionError if it did what none may do."""
    root, name = work / "root", draw.choice(sorted(MAKERS))
    shutil.rmtree(root, ignore_errors=True)
    inner = root / "videos"
    inner.mkdir(parents=True)
    (inner / "mine.txt").write_text("mine")
    archive = inner / name
    archive.write_bytes(damaged(MAKERS[name](draw), draw))
    before, inside = {k: v for k, v in seen(work).items() if not k.startswith("root")}, seen(root)
    started, error = time.monotonic(), error_of(root)
    if error is not None:
        line = str(error)
        assert isinstance(error, OSError) or str(archive) in line, line
        assert "\n" not in line, line
        assert seen(root) == inside, f"something is left of it: {sorted(seen(root).keys() - inside.keys())}"
    assert time.monotonic() - started < MOST_SECONDS, "it took too long"
    assert {k: v for k, v in seen(work).items() if not k.startswith("root")} == before, "something outside has changed"
    for path in root.rglob("*"):
        assert not path.is_symlink(), f"{path} is a link"
        assert path.is_file() or path.is_dir(), f"{path} is a device"
        assert not path.name.endswith(".unpacking"), f"{path} is left"
    taken = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    assert taken <= MOST_BYTES, f"it took {taken} bytes"
    return "refused" if error else "unpacked"


def error_of(root: Path) -> Exception | None:
    try:
        unpack(root, say=lambda line: None)
    except (ValueError, OSError) as error:
        return error
    return None


def fuzz(*, seed: int, count: int | None = None, seconds: float | None = None) -> Counter[str]:
    """Try so many archives, or for so long. Returns how many were unpacked, and how many refused."""
    outcomes: Counter[str] = Counter()
    begun, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory_disk = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk waits for each fsync
    with tempfile.TemporaryDirectory(dir=memory_disk) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, of names that are there twice
        work = Path(folder) / "work"
        (work / "beside").mkdir(parents=True)
        (work / "beside" / "out.mp4").write_text("not yours")
        number = 0
        while number < count if count is not None else time.monotonic() - begun < (seconds or 0.0):
            draw = random.Random(f"{seed}/{number}")
            try:
                outcomes[try_one(work, draw)] += 1
            except BaseException:
                print(f"archive {number} of seed {seed}", file=sys.stderr)
                raise
            number += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    assert grown < MOST_GROWTH_MIB, f"memory grew by {grown:.0f} MiB"
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    if options.long:
        print(dict(fuzz(seed=options.seed, seconds=SECONDS_LONG)))
    else:
        print(dict(fuzz(seed=options.seed, count=NUM_SHORT)))
