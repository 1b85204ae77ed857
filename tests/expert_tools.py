"""Small synthetic videos with questions, an expert who says what a test wants, a command that can be killed fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from vzoom.chat import Chat, ChatFailed, Reply
from vzoom.config import ZoomConfig
from vzoom.data.collect.distill import EpisodeFactory
from vzoom.data.collect.expert import Expert
from vzoom.data.collect.reply_cache import ReplyCache
from vzoom.data.record import Record
from vzoom.data.store import read
from vzoom.models import load_patch_spec
from vzoom.models.checkpoint.vocabulary import load_vocabulary
from vzoom.synthetic.dataset import write_questions
from vzoom.synthetic.spec import SyntheticConfig
from vzoom.video import ClipCache
from vzoom.zoomer import embedded_path

CONFIG = SyntheticConfig(duration_seconds=32, frame_size=84, num_scenes=(3, 4), scene_seconds=(8.0, 12.0))
ZOOM = ZoomConfig.from_dict(json.loads((embedded_path() / "vzoom.json").read_text()), "embedded")

Says = Callable[[Sequence[Mapping[str, Any]], str], str | Reply | ChatFailed]


def make_questions(folder: Path, number: int, **changes: Any) -> Path:
    """The folder of `number` questions, one a video."""
    return write_questions(folder, "which", number, CONFIG, zoom=replace(ZOOM, **changes))


def read_questions(folder: Path) -> list[Record]:
    return list(read(folder))


def make_factory() -> EpisodeFactory:
    path = str(embedded_path())
    return EpisodeFactory(load_vocabulary(path), load_patch_spec(path), ClipCache())


class ScriptedChat(Chat):
    """says(messages, tag) -> what comes back. `asked`: (tag, task, messages) of every request."""

    def __init__(self, says: Says) -> None:
        self.says = says
        self.asked: list[tuple[str, str, list[Mapping[str, Any]]]] = []
        self._lock = threading.Lock()

    def complete(self, messages: Sequence[Mapping[str, Any]], *, tag: str, task: str, **_: Any) -> Reply | ChatFailed:
        with self._lock:
            self.asked.append((tag, task, list(messages)))
        said = self.says(messages, tag)
        return Reply(said, 10, 5, "scripted") if isinstance(said, str) else said


def expert_of(chat: ScriptedChat, cache: ReplyCache) -> Expert:
    return Expert(chat, cache, temperature=0.0, max_tokens=100)


def turns_of(*texts: str) -> Says:
    """Says the texts in order: the n-th where n turns of the assistant came before."""

    def says(messages: Sequence[Mapping[str, Any]], tag: str) -> str:
        return texts[sum(message["role"] == "assistant" for message in messages)]

    return says


def files_of(folder: Path) -> dict[str, bytes]:
    """What must not depend on how often a run was stopped."""
    names = ["rejected.jsonl", "summary.json", *(f"kept/{path.name}" for path in (folder / "kept").glob("*.parquet"))]
    return {name: (folder / name).read_bytes() for name in names}


# ---------------------------------------------------------------- a command that can be killed

_MOTHER = """
import json, os, signal, sys
from vzoom.cli import main
from vzoom.interrupts import run_until_signal
import vzoom.data.collect.distill, vzoom.data.collect.reflect, vzoom.data.collect.rollouts
import vzoom.models.checkpoint.vocabulary, vzoom.zoomer
import vzoom.eval.runs.run, vzoom.synthetic.evaluate
import pyarrow.parquet, transformers.models.qwen2_5_vl.modeling_qwen2_5_vl
from transformers import AutoTokenizer
print("ready", flush=True)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

def run():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # from here on they are answered
    return main(json.loads(line))

for line in sys.stdin:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.fork()
    if child == 0:
        log = os.open(os.environ["CHILD_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        code = 70
        try:
            code = run_until_signal(run, line=": stopped by {}".format, is_program=True)
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Mother:
    """A process that has imported everything and forks a child for each command: a start takes no seconds."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MOTHER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment, "CHILD_LOG": str(log), "TOKENIZERS_PARALLELISM": "false"},
        )
        assert self._line() == "ready"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait(timeout=60)

    def start(self, arguments: Sequence[str]) -> int:
        """The pid of the command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(list(arguments)) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        """Exit code of the command that was started last; -9 where it was killed."""
        return os.waitstatus_to_exitcode(int(self._line()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Waits for the condition; whether it came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.004)
    return True
