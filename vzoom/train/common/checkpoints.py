"""The folder of one training run, SFT's or GRPO's: where it resumes, its best model so far, what it leaves in the end.

OUT/best-000040/               the best model, after step (GRPO) or update (SFT) 40, as `vzoom.load` reads it
OUT/checkpoints/checkpoint-80/ the trainer's own after 80 updates; complete once progress.json is in it
OUT/.lock                      held by the run that works here; says which vzoom did so last
OUT/log.jsonl                  one line per step (GRPO) or update (SFT)
OUT/grpo.json, OUT/sft.json    written last: which model was published, and its held-out reward
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from ...config import ZoomConfig
from ...data import LOCK, Lock, naming, read_json, write_atomically, write_json
from ...models import Checkpoint, read_header
from .dist import ProcessGroup

Best = tuple[float | None, int]
"""Held-out reward of the best model and its step or update; the reward is None if nothing is held out."""

_UNWRITTEN = ("iostream error", "inline_container", "PytorchStreamWriter", "I/O error", "Error while serializing")
_FULL_BYTES = 1 << 20  # a disk with less is full
_COMPLETE = "progress.json"  # written last, so a checkpoint that has it was written to its end
_STATE: dict[str, type | tuple[type, ...]] = {
    "identity": dict,
    "step": int,
    "best": (list, type(None)),
    "progress": dict,
}
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "chat_template.jinja", "chat_template.json")


@dataclass(frozen=True)
class ResumePoint:
    """Where a run begins: after `step`, from the trainer's checkpoint; at the defaults if it is new.

    best: the best model by then. progress: what the run wrote besides, see `TrainingFolder.mark_complete`.
    """

    checkpoint: Path | None = None
    step: int = 0
    best: Best | None = None
    progress: dict[str, Any] = field(default_factory=dict)


class TrainingFolder:
    """What a run reads from and writes to its folder. Every process has one; only the first process writes.

    Args:
        out: the folder.
        group: the processes of the run.
        identity: what the run is of. A checkpoint of another identity is not resumed.
        unit: what the run counts. GRPO makes several updates of one step.
        say: gets the lines for the console, from the first process only.

    Raises:
        ValueError: another run works in the folder.
    """

    def __init__(
        self,
        out: Path,
        group: ProcessGroup,
        *,
        identity: dict[str, str],
        unit: Literal["step", "update"],
        say: Callable[[str], None],
    ) -> None:
        self.out, self.group, self.identity, self.unit = out, group, identity, unit
        self._say = say
        self._lock = Lock(out / LOCK) if self.is_first else None
        if self._lock is not None and (told := self._lock.note()):
            say(told)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()
        # torch and safetensors say that a file could not be written by errors of their own.
        if error is not None and any(sign in str(error) for sign in _UNWRITTEN):
            is_full = shutil.disk_usage(self.out).free < _FULL_BYTES or "code: 28" in str(error)
            number = errno.ENOSPC if is_full else errno.EIO
            raise OSError(number, os.strerror(number), str(self.out / "checkpoints")) from error

    @property
    def is_first(self) -> bool:
        return self.group.rank == 0

    def say(self, line: str) -> None:
        """Say a line once, however many processes there are."""
        if self.is_first:
            self._say(line)

    def resume(self, resume: Literal["auto", "never"], *, identified_by: str) -> ResumePoint:
        """Find the newest complete checkpoint. All processes must call it.

        Args:
            resume: "never" removes all checkpoints first.
            identified_by: names what makes the identity, for the error.

        Raises:
            ValueError: the checkpoint is of another run.
        """
        checkpoints = self.out / "checkpoints"
        if resume == "never" and self.is_first:
            shutil.rmtree(checkpoints, ignore_errors=True)
        checkpoints.mkdir(parents=True, exist_ok=True)
        found = self.group.all_gather(newest_complete(checkpoints) if self.is_first else None)[0]
        if found is None:
            return ResumePoint()
        checkpoint, state = found
        if state["identity"] != self.identity:
            raise ValueError(f"{checkpoint} is of another {identified_by}: name another folder, or resume='never'")
        best = None if state["best"] is None else (state["best"][0], state["best"][1])
        return ResumePoint(checkpoint, state["step"], best, state["progress"])

    def open_log(self, *, step: int) -> TrainingLog | None:
        """The log up to and including `step`, to be continued. None except in the first process."""
        return TrainingLog(self.out / "log.jsonl", step=step) if self.is_first else None

    def save_best(self, checkpoint: Checkpoint, config: ZoomConfig, step: int) -> None:
        """Save a model as the best so far."""
        if self.is_first:
            save_model(checkpoint, config, _best_folder(self.out, step))

    def mark_complete(
        self, trainer: Any, update: int, *, step: int, best: Best | None, progress: dict[str, Any]
    ) -> None:
        """The trainer has written its checkpoint: make it one to resume from. All processes must call it.

        Args:
            trainer: transformers' Trainer.
            update: its number of updates so far.
            step: steps or updates, as `unit` says.
            best: the best model so far; older best models are removed.
            progress: what a resumed run needs besides.
        """
        if self.group.size > 1:
            trainer.accelerator.wait_for_everyone()  # each process writes a part of it
        if self.is_first:
            state = {"identity": self.identity, "step": step, "best": best, "progress": progress}
            mark_complete(self.out / "checkpoints" / f"checkpoint-{update}", state)
            if best is not None:
                self.remove_other_best_models(best)

    def remove_other_best_models(self, best: Best) -> None:
        if self.is_first:
            for folder in self.out.glob("best-*"):
                if folder != _best_folder(self.out, best[1]):
                    shutil.rmtree(folder)

    def finish(self, trainer: Any, summary_name: str, *, done: int, best: Best, **more: Any) -> None:
        """Publish the best model as OUT itself and write the summary. All processes must call it.

        Args:
            trainer: transformers' Trainer.
            summary_name: file name of the summary.
            done: steps or updates that the run made.
            best: the model to publish.
            more: further entries of the summary.
        """
        if self.is_first:
            reward, step = best
            _publish(_best_folder(self.out, step), self.out)
            summary = {f"{self.unit}s": done, f"best_{self.unit}": step, "best_reward": reward, **more}
            write_json(self.out / summary_name, summary)
            worth = "" if reward is None else f", its held-out reward is {reward:.3f}"
            self.say(f"{self.unit} {step} is kept in {self.out}{worth}")
        if self.group.size > 1:
            trainer.accelerator.wait_for_everyone()  # the caller may load the model at once


class TrainingLog:
    """OUT/log.jsonl: a JSON object per line, up to and including `step` of an earlier attempt."""

    def __init__(self, path: Path, *, step: int) -> None:
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        kept = [line for n, line in enumerate(lines, 1) if line.endswith(b"\n") and _step_of(path, n, line) <= step]
        write_atomically(path, b"".join(kept).decode())
        self._path = path

    def add(self, row: dict[str, Any]) -> None:
        with naming(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _step_of(path: Path, number: int, line: bytes) -> int:
    try:
        return int(json.loads(line.decode())["step"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}, line {number} is damaged ({error}): remove this line, it is only a log") from error


def save_model(checkpoint: Checkpoint, config: ZoomConfig, folder: Path) -> Path:
    """Save the checkpoint's model as it is now, in its own dtype, as a folder for `vzoom.load`.

    The folder appears in one move: a kill leaves the earlier one, or none.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    checkpoint.model.hf.save_pretrained(part)
    for weights in part.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes files that only their owner can read
    checkpoint.tokenizer.save_pretrained(part)
    for name in _PROCESSOR_FILES:
        if (found := checkpoint.folder.path / name).is_file():
            shutil.copyfile(found, part / name)
    config.save(part / "vzoom.json")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder


def mark_complete(folder: Path, state: dict[str, Any]) -> None:
    """A checkpoint of the trainer is complete: write `state` into it, in one move."""
    write_json(folder / _COMPLETE, {**state, "files": _sizes(folder)})


def newest_complete(checkpoints: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that was written to its end, and its state. Younger ones are removed."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True)
    for folder in found:
        if (folder / _COMPLETE).exists():
            mend = f"remove {folder}, and the run resumes from the one before, or begins anew"
            state = read_json(folder / _COMPLETE, _STATE, mend=mend)
            _check_files(folder, state.get("files", {}), mend)
            return folder, state
        shutil.rmtree(folder)
    return None


def _sizes(folder: Path) -> dict[str, int]:
    """The sizes of a checkpoint's files, by name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != _COMPLETE)
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _check_files(folder: Path, sizes: dict[str, int], mend: str) -> None:
    """ValueError if a file is gone, cut short, or begins otherwise than its format does."""
    held = _sizes(folder)
    for name, size in sizes.items():
        if held.get(name) != size:
            raise ValueError(f"{folder / name} is damaged (it has {held.get(name, 0)} of {size} bytes): {mend}")
    for path in folder.glob("*.json"):
        read_json(path, mend=mend)
    for path in folder.glob("*.pt"):
        check_torch_file(path, mend=mend)
    for path in folder.glob("*.safetensors"):
        try:
            read_header(path)
        except ValueError as error:
            raise ValueError(f"{error}, or {mend}") from error


def check_torch_file(path: Path, *, mend: str) -> None:
    """Compare what `torch.save` wrote with its checksums: it is a zip file.

    Args:
        path: the file.
        mend: what the user can do if it is damaged.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        bad = " ".join(str(error).split())[:200]
    if bad is not None:
        raise ValueError(f"{path} is damaged ({bad}): {mend}")


def _best_folder(out: Path, step: int) -> Path:
    return out / f"best-{step:06d}"


def _publish(folder: Path, out: Path) -> None:
    """Copy a model's files into `out`, each in one move."""
    for file in sorted(folder.iterdir()):
        part = out / f".{file.name}.part"
        shutil.copyfile(file, part)
        os.replace(part, out / file.name)
