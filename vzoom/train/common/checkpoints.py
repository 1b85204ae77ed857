"""What an RL run leaves on the disk: the best model so far, and which of the trainer's checkpoints are whole.

OUT/best-000040/            the sampler's model after step 40, whole: weights, tokenizer, processor, vzoom.json
OUT/checkpoints/checkpoint-80/   the trainer's own, whole when progress.json is in it, which is written last
OUT/log.jsonl               a line a step
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ...config import ZoomConfig
from ...data import write_atomically
from ...models import Checkpoint

_MARK = "progress.json"
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "chat_template.jinja", "chat_template.json")


def save_whole(checkpoint: Checkpoint, config: ZoomConfig, folder: Path) -> Path:
    """The checkpoint's model as it is now, in its own dtype, as a folder for `vzoom.load`; there in one move."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    checkpoint.model.hf.save_pretrained(part)
    for weights in part.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes files that only their owner can read
    checkpoint.tokenizer.save_pretrained(part)
    for name in _PROCESSOR_FILES:
        if (found := _file_of(checkpoint.name, name)) is not None:
            shutil.copyfile(found, part / name)
    config.save(part / "vzoom.json")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder


def _file_of(name_or_path: str, file: str) -> Path | None:
    if (folder := Path(name_or_path)).is_dir():
        path = folder / file
        return path if path.is_file() else None
    from transformers.utils import cached_file

    found = cached_file(name_or_path, file, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def best_folder(out: Path, step: int) -> Path:
    return out / f"best-{step:06d}"


def forget_others(out: Path, step: int) -> None:
    """Remove the best models of other steps."""
    for folder in out.glob("best-*"):
        if folder != best_folder(out, step):
            shutil.rmtree(folder)


def publish(folder: Path, out: Path) -> None:
    """Put a whole model's files into `out` itself, each in one move."""
    for file in sorted(folder.iterdir()):
        part = out / f".{file.name}.part"
        shutil.copyfile(file, part)
        os.replace(part, out / file.name)


def mark_whole(folder: Path, state: dict[str, Any]) -> None:
    """A checkpoint of the trainer is whole: `state` is what it holds beside it."""
    write_atomically(folder / _MARK, json.dumps(state))


def newest_whole(checkpoints: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that was written to its end, and its state; what is younger than it is removed."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True)
    for folder in found:
        if (folder / _MARK).exists():
            return folder, json.loads((folder / _MARK).read_text())
        shutil.rmtree(folder)
    return None


class Log:
    """OUT/log.jsonl: a JSON line a step, up to and including `step` of an earlier attempt."""

    def __init__(self, path: Path, *, step: int) -> None:
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        part = path.with_suffix(".part")
        part.write_text("".join(kept))
        os.replace(part, path)
        self._path = path

    def add(self, row: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
