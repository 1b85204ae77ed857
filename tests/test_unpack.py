"""Archives of strangers: whole or not at all, nothing outside, no links, no more than they may take."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz.archives import NUM_SHORT, fuzz, seen

from vzoom.eval import unpack as module
from vzoom.eval.unpack import unpack

Member = tuple[str, bytes, bytes, str]  # name, type, content, target of a link


def tar_of(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        for name, kind, content, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, len(content)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def zip_of(*members: tuple[str, bytes, int]) -> bytes:
    """members: name, content, and the mode that Unix keeps with it."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return made.getvalue()


FILE, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
GOOD: Member = ("good.mp4", FILE, b"good", "")


def deep_links() -> bytes:
    """CVE-2025-4517: folders with long names, and links to them, until the real path is too long to be resolved; then
    a link leads out, and a file is written through it."""
    step, path, members = "d" * 247, "", []
    for letter in "abcdefghijklmnop":
        members.append((f"{path}{step}", tarfile.DIRTYPE, b"", ""))
        members.append((f"{path}{letter}", LINK, b"", step))
        path += f"{letter}/"
    members.append((f"{path}{'l' * 254}", LINK, b"", "../" * 16))
    members.append(("escape", LINK, b"", f"{path}{'l' * 254}/../../outside"))
    members.append(("escape/mine.txt", FILE, b"overwritten", ""))
    return tar_of(*members)


def refused(root: Path, archive: Path, why: str) -> None:
    """The archive is refused for this reason, and nothing of it is left, there or anywhere beside."""
    before = seen(root.parent)
    with pytest.raises(ValueError, match=rf"{archive}: .*{why}.*; remove it") as caught:
        unpack(root, say=lambda line: None)
    assert "\n" not in str(caught.value)
    assert seen(root.parent) == before


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine.txt").write_text("mine")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ((GOOD, ("x", LINK, b"", "/etc")), "is a link"),
        ((GOOD, ("x", LINK, b"", "good.mp4")), "is a link"),
        ((GOOD, ("x", HARD, b"", "good.mp4")), "is a link"),
        ((GOOD, ("x", LINK, b"", "../outside"), ("x/mine.txt", FILE, b"evil", "")), "is a link"),
        ((GOOD, ("x", tarfile.FIFOTYPE, b"", "")), "a device"),
        ((GOOD, ("x", tarfile.CHRTYPE, b"", "")), "a device"),
        ((GOOD, ("../outside/mine.txt", FILE, b"evil", "")), "no path below"),
        ((GOOD, ("a/../../outside/mine.txt", FILE, b"evil", "")), "no path below"),
        ((GOOD, ("/tmp/evil", FILE, b"evil", "")), "no path below"),
        ((GOOD, ("..", tarfile.DIRTYPE, b"", "")), "no path below"),
        ((GOOD, ("./good.mp4", FILE, b"other", "")), "twice"),
        ((GOOD, ("good.mp4/x", FILE, b"other", "")), "twice"),
        ((GOOD, ("a/b", FILE, b"", ""), ("a", FILE, b"other", "")), "twice"),
        ((GOOD, ("good.mp4", tarfile.DIRTYPE, b"", "")), "as a file and as a folder"),
        ((GOOD, ("evil.tar", FILE, b"other", "")), "take the place of an archive"),
        ((GOOD, (".unpacked.json", FILE, b"{}", "")), "take the place of an archive"),
        ((GOOD, ("taken", FILE, b"", "")), "take the place of a folder"),
    ],
)
def test_a_tar_holds_files_below_its_folder_and_nothing_else(members: tuple[Member, ...], why: str, root: Path) -> None:
    (root / "taken").mkdir()
    for data in (tar_of(*members), gzip.compress(tar_of(*members, form=tarfile.GNU_FORMAT))):
        (root / "evil.tar").write_bytes(data)
        refused(root, root / "evil.tar", why)


def test_a_deep_chain_of_links_leads_nowhere(root: Path) -> None:
    (root / "evil.tar").write_bytes(deep_links())
    refused(root, root / "evil.tar", "is a link")
    assert (root.parent / "outside" / "mine.txt").read_text() == "mine"


def encrypted(data: bytes) -> bytes:
    changed = bytearray(data)
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        changed[data.index(mark) + at] |= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (zip_of(("good.mp4", b"good", 0), ("x", b"/etc", stat.S_IFLNK | 0o777)), "is a link"),
        (zip_of(("good.mp4", b"good", 0), ("x", b"", stat.S_IFIFO | 0o777)), "a device"),
        (zip_of(("good.mp4", b"good", 0), ("../outside/mine.txt", b"evil", 0)), "no path below"),
        (zip_of(("good.mp4", b"good", 0), ("/tmp/evil", b"evil", 0)), "no path below"),
        (zip_of(("good.mp4", b"good", 0), ("..\\evil", b"evil", 0)), "no path below"),
        (zip_of(("a/b", b"good", 0), ("a//b", b"other", 0)), "twice"),
        (zip_of(("a/b/", b"", 0), ("a", b"", 0)), "twice"),
        (encrypted(zip_of(("x", b"secret", 0))), "encrypted"),
        (b"PK\x03\x04 and nothing", "not a zip file"),
        (zip_of(("caf\u00e9", b"good", 0)).replace("caf\u00e9".encode(), b"caf\xe9\xff", 1), "codec can't decode"),
    ],
)
def test_a_zip_holds_files_below_its_folder_and_nothing_else(data: bytes, why: str, root: Path) -> None:
    (root / "evil.zip").write_bytes(data)
    refused(root, root / "evil.zip", why)


def test_bombs_are_refused_before_they_fill_the_disk(root: Path) -> None:
    """A thousandfold: 17 KB that unpack to 17 MB and more."""
    big = bytes(24 << 20)
    bombs = {
        "evil.tar": gzip.compress(tar_of(("x", FILE, big, "")), 9),
        "evil.zip": zip_of(("x", big, 0)),
        "many.tar": gzip.compress(
            tar_of(*((f"{n}", FILE, b"", "") for n in range(5000)), form=tarfile.USTAR_FORMAT), 9
        ),
    }
    for name, data in bombs.items():
        (root / name).write_bytes(data)
        refused(root, root / name, "more than 100 times its size")
        (root / name).unlink()


def test_what_does_not_fit_on_the_disk_is_not_begun(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a.tar").write_bytes(tar_of(("x", FILE, bytes(5000), "")))
    usage = module.shutil.disk_usage(root)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=4000))
    refused(root, root / "a.tar", "takes 5000 bytes, and the disk has 4000 left: make room")


def lying(size: int) -> bytes:
    """A zip whose directory announces another size than its member has."""
    data = bytearray(zip_of(("x", b"y" * 5000, 0)))
    data[data.index(b"PK\x01\x02") + 24 :][:4] = struct.pack("<I", size)
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<I", size)
    return bytes(data)


@pytest.mark.parametrize("size", [10, 4999, 5001, 1 << 20])
def test_a_zip_that_announces_another_size_is_refused(size: int, root: Path) -> None:
    (root / "evil.zip").write_bytes(lying(size))
    refused(root, root / "evil.zip", "")


def test_a_tar_header_that_announces_a_huge_name_takes_no_memory(root: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    (root / "evil.tar").write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(4 << 20)))
    refused(root, root / "evil.tar", "a header of it has")


@pytest.mark.parametrize("size", [-1, -512, -(1 << 40)])
def test_a_negative_size_ends_at_once(size: int, root: Path) -> None:
    """CVE-2025-8194: tarfile went back and read the same for ever."""
    header = tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT)
    field = b"\xff" + (size & ((1 << 88) - 1)).to_bytes(11, "big")
    changed = bytearray(header[:124] + field + header[136:])
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed[:512])
    (root / "evil.tar").write_bytes(bytes(changed) + bytes(2048))
    started = time.monotonic()
    refused(root, root / "evil.tar", "")
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("cut", [512, 1000, 1024, 1536, 2000, 2048])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_tar_without_its_end_is_not_unpacked(cut: int, pack: Callable[[bytes], bytes], root: Path) -> None:
    """Cut between two members, too, which tarfile takes for the end."""
    data = tar_of(GOOD, ("b.mp4", FILE, b"b" * 512, ""), form=tarfile.USTAR_FORMAT)
    (root / "a.tar").write_bytes(pack(data[:cut]))
    refused(root, root / "a.tar", "")
    (root / "a.tar").write_bytes(pack(data[: 2048 + 512]))  # a block of its end is enough
    unpack(root, say=lambda line: None)
    assert (root / "b.mp4").read_bytes() == b"b" * 512


def test_a_header_that_cannot_be_read_is_not_the_end(root: Path) -> None:
    data = bytearray(tar_of(GOOD, ("b.mp4", FILE, b"b" * 512, ""), form=tarfile.USTAR_FORMAT))
    data[1024 + 100] ^= 1  # of the second header
    (root / "a.tar").write_bytes(bytes(data))
    refused(root, root / "a.tar", "it has no end")
    data = bytearray(gzip.compress(tar_of(GOOD)))
    data[-6] ^= 1  # of gzip's checksum
    (root / "a.tar").write_bytes(bytes(data))
    refused(root, root / "a.tar", "CRC")


def test_archives_in_archives_stay_packed(root: Path) -> None:
    inner = tar_of(("x.mp4", FILE, b"x", ""))
    (root / "a.tar").write_bytes(tar_of(("videos/inner.tar", FILE, inner, ""), GOOD))
    for _ in range(2):
        unpack(root, say=lambda line: None)
        assert sorted(seen(root)) == [".unpacked.json", "a.tar", "good.mp4", "videos", "videos/inner.tar"]
    assert json.loads((root / ".unpacked.json").read_text()).keys() == {"a.tar", "videos/inner.tar"}


def test_tar_and_tar_gz_of_one_name_are_two_archives(root: Path) -> None:
    (root / "a.tar").write_bytes(tar_of(GOOD))
    (root / "a.tar.gz").write_bytes(gzip.compress(tar_of(("other.mp4", FILE, b"other", ""))))
    unpack(root, say=lambda line: None)
    assert (root / "good.mp4").read_bytes() + (root / "other.mp4").read_bytes() == b"goodother"


def test_an_earlier_file_is_replaced_and_modes_are_not_the_archives(root: Path) -> None:
    (root / "good.mp4").write_text("old")
    info = tarfile.TarInfo("good.mp4")
    info.size, info.mode = 4, 0o6777
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.addfile(info, io.BytesIO(b"good"))
    (root / "a.tar").write_bytes(made.getvalue())
    unpack(root, say=lambda line: None)
    assert (root / "good.mp4").read_text() == "good"
    mask = os.umask(0)
    os.umask(mask)
    assert (root / "good.mp4").stat().st_mode & 0o7777 == 0o666 & ~mask


def test_what_a_kill_left_is_cleared(root: Path) -> None:
    (root / ".a.tar.unpacking").mkdir()
    (root / ".a.tar.unpacking" / "half.tar").write_text("half")
    (root / "a.tar").write_bytes(tar_of(GOOD))
    unpack(root, say=lambda line: None)
    assert sorted(seen(root)) == [".unpacked.json", "a.tar", "good.mp4"]


def test_fuzzed_archives_are_unpacked_or_refused() -> None:
    """Some hundred; `python tests/fuzz/archives.py --long` tries them for minutes."""
    outcomes = fuzz(seed=1, count=NUM_SHORT)
    assert min(outcomes["unpacked"], outcomes["refused"]) > 50
