"""A folder of stages. Each is done once, and remembered with what went in and what came out.

    manifest.json    by stage: settings, inputs, outputs (SHA-256 of every file), versions, CPU and wall seconds
    STAGE/           what the stage made; a stage that was stopped resumes in its folder

A stage is done if the manifest says so, its settings and inputs are what they were, and its outputs are still there.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...data import LOCK, Lock, read_json, write_json

MANIFEST = "manifest.json"
_CLOCK = ".seconds.json"  # CPU and wall seconds of a stage that is not done yet
_CLOCK_PERIOD_SECONDS = 15.0
_PACKAGES = ("vzoom", "torch", "transformers", "trl", "peft", "accelerate")

_ENTRY: dict[str, Any] = {"settings": dict, "inputs": dict, "outputs": dict, "cpu_seconds": (int, float)}

Make = Callable[[Path], Sequence[Path]]


class StageStore:
    """A folder of stages, used by one process at a time. Use it as a context manager, or call `close`.

    Args:
        folder: made if it does not exist.
        planned: the names of all stages in order, so that progress can be counted; () counts nothing.
        say: takes a line of progress.

    Raises:
        ValueError: another process uses the folder, or its manifest is damaged.
        OSError: the folder may not be written.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, planned: Sequence[str] = (), say: Callable[[str], None] = print
    ) -> None:
        self.folder, self.planned, self.say = Path(folder), tuple(planned), say
        self._lock = Lock(self.folder / LOCK)
        try:
            if told := self._lock.note():
                say(told)
            self.manifest = _read_manifest(self.folder / MANIFEST)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._lock.close()

    def stage(
        self, name: str, make: Make, *, settings: Mapping[str, Any] | None = None, inputs: Sequence[Path] = ()
    ) -> Path:
        """The folder of a stage, made now unless it is done.

        Args:
            name: of the stage and its folder.
            make: makes the stage in the folder that it gets; returns the files and folders it made.
            settings: all that decides what comes out; dataclasses are fine.
            inputs: files and folders that `make` reads.

        Returns:
            folder / name.

        Raises:
            ValueError: the stage was made from other settings or inputs, or its files have changed since.
        """
        folder = self.folder / name
        made_from = {
            "settings": _plain(settings or {}),
            "inputs": {self.shown(path): digest(path) for path in inputs},
        }
        if name in self.manifest:
            self._check(name, made_from)
            self.say(f"{self._place(name)}: done before")
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        started = folder / ".made-from.json"
        mend = f"remove {folder}, and the stage is made anew, or name another folder of results"
        if started.exists() and read_json(started, mend=mend) != made_from:
            raise ValueError(f"{folder} was begun with other settings or inputs: {mend}")
        write_json(started, made_from)
        self.say(self._place(name))
        with _timed(folder / _CLOCK) as clock:
            outputs = list(make(folder))
        self.manifest[name] = {
            **made_from,
            "outputs": {self.shown(path): digest(path) for path in outputs},
            "cpu_seconds": round(clock["cpu_seconds"], 1),
            "wall_seconds": round(clock["wall_seconds"], 1),
            "versions": {"python": platform.python_version(), **dict(_versions())},
        }
        write_json(self.folder / MANIFEST, self.manifest)
        self.say(f"{self._place(name)}: done in {clock['wall_seconds']:.0f} s")
        return folder

    @property
    def cpu_seconds(self) -> float:
        """What all stages that are done have used."""
        return float(sum(entry["cpu_seconds"] for entry in self.manifest.values()))

    def _check(self, name: str, made_from: dict[str, Any]) -> None:
        held = self.manifest[name]
        mend = (
            f"remove {self.folder / name} and its entry in {self.folder / MANIFEST}, or name another folder of results"
        )
        for kind in ("settings", "inputs"):
            changed = sorted(
                key for key in {*held[kind], *made_from[kind]} if held[kind].get(key) != made_from[kind].get(key)
            )
            if changed:
                raise ValueError(f"stage {name} was made with other {kind} ({', '.join(changed)}): {mend}")
        for shown, was in held["outputs"].items():
            if not (self.folder / shown).exists() or digest(self.folder / shown) != was:
                raise ValueError(f"{self.folder / shown} of stage {name} has changed or is gone: {mend}")

    def shown(self, path: Path) -> str:
        """A path in the folder by its place there, so that the folder may be moved; another path as it is."""
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)

    def _place(self, name: str) -> str:
        return f"[{self.planned.index(name) + 1}/{len(self.planned)}] {name}" if name in self.planned else f"[{name}]"


def _read_manifest(path: Path) -> dict[str, Any]:
    mend = "restore it from a copy, or remove it: every stage is then made again from what its folder holds"
    manifest = read_json(path, mend=mend) if path.exists() else {}
    for name, entry in manifest.items():
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), kind) for key, kind in _ENTRY.items()):
            raise ValueError(f"{path} is damaged (its entry {name}): {mend}")
    return manifest


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and digests of all files in a folder; hidden ones do not count.

    Raises:
        ValueError: there is no such file or folder.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise ValueError(f"{path} does not exist")
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    lines = [f"{p.relative_to(path)} {digest(p)}" for p in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """As JSON gives it back, so that it can be compared with what was written."""

    def unknown(x: Any) -> Any:
        if is_dataclass(x) and not isinstance(x, type):
            return asdict(x)
        raise TypeError(f"a stage's settings hold {x!r}, which is not plain data")

    return json.loads(json.dumps(value, default=unknown))


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@contextmanager
def _timed(path: Path) -> Iterator[dict[str, float]]:
    """Seconds of the block and of its earlier attempts, saved in `path` as it runs: a kill loses a few at most."""
    seconds = {"cpu_seconds": (int, float), "wall_seconds": (int, float)}
    mend = "remove it; only the seconds of earlier attempts are lost"
    before = read_json(path, seconds, mend=mend) if path.exists() else dict.fromkeys(seconds, 0.0)
    begin = {"cpu_seconds": _cpu_seconds(), "wall_seconds": time.monotonic()}
    clock: dict[str, float] = {}
    over = threading.Event()

    def read() -> None:
        now = {"cpu_seconds": _cpu_seconds(), "wall_seconds": time.monotonic()}
        clock.update({key: before[key] + now[key] - begin[key] for key in now})
        write_json(path, clock)

    def tick() -> None:
        while not over.wait(_CLOCK_PERIOD_SECONDS):
            read()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield clock
    finally:
        over.set()
        thread.join()
        read()
