"""Long commands on a disk that is too small: each ends with one line, keeps what was done, and resumes on a larger one.
Then two of the same at once in one folder: one does the work, the other shares it or is refused.

    python full_disk.py FOLDER SEED TRIES TASK…

The disk is a small tmpfs that is made larger (as root, or where mounting is allowed), else a limit on the size of every
file. Everything is imported once; each attempt is a process of its own, forked. Prints a JSON object for each task:
what each attempt ended with, and the digests of an undisturbed run and of the one that was stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import grpo_run
from eval_small import small_benchmark
from expert_tools import CONFIG as EXPERT_CONFIG
from expert_tools import ZOOM as EXPERT_ZOOM
from expert_tools import files_of, make_questions
from faulty_oracle import FaultyOracle
from test_pretrain import small
from training import WORLD, ZOOM, lessons

import vzoom
from vzoom.cli.main import _one_line
from vzoom.cli.main import main as vzoom_main
from vzoom.data.store import read
from vzoom.eval.runs.run import RunConfig, run
from vzoom.eval.runs.store import content_hash
from vzoom.synthetic.dataset import write_questions
from vzoom.train.pretrain.pretrain import pretrain
from vzoom.train.recipes.recipe import Optimisation, Recipe, SFTRecipe
from vzoom.train.rl.grpo import run_grpo
from vzoom.train.sft.sft import run_sft
from vzoom.zoomer import embedded_path

TASKS = ("eval", "distill", "render", "sft", "grpo", "pretrain")
SFT = SFTRecipe(
    optimisation=Optimisation(1e-3),
    batch_size=2,
    micro_batch_size=2,
    epochs=1,
    gradient_checkpointing=False,
    eval_questions=1,
    eval_every=2,
    save_every=1,
)
Work = Callable[[Path], None]
Digest = Callable[[Path], str]


class Disk:
    """A folder on a disk of a size that can be changed. Use as a context."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.is_mounted = self._mount("-t", "tmpfs", "-o", "size=64k", "vzoom-tests")
        self.num_bytes = 0

    def resize(self, num_bytes: int | None) -> None:
        """None is large enough for anything."""
        self.num_bytes = num_bytes or 1 << 32
        if self.is_mounted:
            assert self._mount("-o", f"remount,size={max(4096, self.num_bytes)}")

    def enter(self) -> None:
        """In the process that works: the limit on its files if nothing could be mounted."""
        if not self.is_mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.num_bytes, resource.RLIM_INFINITY))

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", self.folder], check=True)

    def _mount(self, *words: str) -> bool:
        return subprocess.run(["mount", *words, self.folder], check=False, capture_output=True).returncode == 0


def attempt(work: Work, disk: Disk, out: Path) -> str:
    """Work in a process of its own. "" if it ended well, the line that it ended with, or a traceback."""
    (said,) = attempts(work, disk, [out])
    return said


def attempts(work: Work, disk: Disk, outs: list[Path]) -> list[str]:
    """The same at once, in a process for each folder."""
    pipes = []
    for out in outs:
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            said = ""
            try:
                disk.enter()
                with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
                    work(out)
            except (ValueError, OSError) as error:  # what the command line makes one line of
                line = _one_line(error)
                said = line if str(out) in line else f"names no file: {line}\n{traceback.format_exc()}"
            except BaseException:  # noqa: BLE001  (whatever it is: the parent says it)
                said = traceback.format_exc()
            finally:
                os.write(write_end, said.encode()[-4000:])
                os._exit(0)
        os.close(write_end)
        pipes.append((pid, read_end))
    found = []
    for pid, read_end in pipes:
        with os.fdopen(read_end) as file:
            found.append(file.read())
        os.waitpid(pid, 0)
    return found


def size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def command(words: list[str]) -> None:
    """A command of `vzoom`; its line becomes an OSError."""
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as file, redirect_stderr(file):
        code = vzoom_main(words)
    with os.fdopen(read_end) as file:
        said = file.read().strip().splitlines()
    if code:
        raise OSError(said[-1] if said else f"exit code {code}")


def digest_of(*names: str) -> Digest:
    def digest(out: Path) -> str:
        held = hashlib.sha256()
        for path in sorted(path for name in names for path in out.glob(name)):
            held.update(f"{path.relative_to(out)} ".encode() + path.read_bytes())
        return held.hexdigest()

    return digest


def task_of(name: str, inputs: Path) -> tuple[Work, Digest]:
    """What to do in a folder, and what must come out of it, however often it was stopped."""
    if name == "eval":
        zoomer = vzoom.load("embedded", device="cpu")
        benchmark, settings = small_benchmark(4), RunConfig(max_sessions=1, block=1)

        def evaluate(out: Path) -> None:
            run(zoomer, benchmark, inputs, out, settings)

        evaluate(inputs / "videos-are-rendered")
        return evaluate, lambda out: content_hash(out / "predictions.sqlite")
    if name == "distill":
        server = FaultyOracle(EXPERT_CONFIG, replace(EXPERT_ZOOM, max_zooms=2)).__enter__()
        os.environ.update(VZOOM_EXPERT_URL=server.url, VZOOM_EXPERT_MODEL="oracle")
        questions = make_questions(inputs, 6, max_zooms=2)
        words = ["distill", "--questions", str(questions), "--concurrency", "1", "--out"]
        return lambda out: command([*words, str(out)]), lambda out: hashlib.sha256(
            repr(files_of(out)).encode()
        ).hexdigest()
    if name == "render":

        def render(out: Path) -> None:
            write_questions(out, "which", 6, WORLD, zoom=ZOOM)

        return render, lambda out: repr([replace(r, video=r.video.sha256) for r in read(out / "questions")])  # type: ignore[arg-type]
    if name == "sft":
        questions, talks = lessons(inputs)
        recipe = Recipe("test", "", ZOOM, sft=SFT)

        def sft(out: Path) -> None:
            run_sft(recipe, base=embedded_path(), data=talks, eval_questions=questions, out=out, say=lambda line: None)

        return sft, digest_of("model.safetensors")
    if name == "grpo":
        questions = write_questions(inputs, "which", 3, WORLD, zoom=grpo_run.ZOOM)
        recipe = replace(grpo_run.RECIPE, grpo=replace(grpo_run.PART, steps=2))

        def grpo(out: Path) -> None:
            run_grpo(
                recipe,
                base=embedded_path(),
                questions=questions,
                eval_questions=questions,
                out=out,
                say=lambda line: None,
            )

        return grpo, digest_of("model.safetensors")
    assert name == "pretrain"
    curriculum = replace(small(), save_every=1)

    def pretraining(out: Path) -> None:
        pretrain(curriculum, out, say=lambda line: None)

    return pretraining, digest_of("model.safetensors")


def main(folder: Path, name: str, *, seed: int, tries: int) -> dict[str, object]:
    folder.mkdir(parents=True)
    inputs, whole = folder / "inputs", folder / "whole"
    inputs.mkdir()
    work, digest = task_of(name, inputs)
    draw = random.Random(seed)
    with Disk(folder / "disk") as disk:
        disk.resize(None)
        said = attempt(work, disk, whole)
        assert said == "", said
        out, largest = disk.folder / "out", size_of(whole)
        if not disk.is_mounted:
            largest = max(path.stat().st_size for path in whole.rglob("*") if path.is_file())
        ended = []
        for share in sorted(draw.uniform(0.02, 0.9) for _ in range(tries)):
            disk.resize(int(share * largest))
            ended.append(attempt(work, disk, out))
        disk.resize(None)
        last = attempt(work, disk, out)
        assert last == "", last
        shared = folder / "shared"
        two = attempts(work, disk, [shared, shared])
        digests = {"whole": digest(whole), "stopped": digest(out), "shared": digest(shared)}
        return {"task": name, "ended": ended, "two": sorted(two), **digests, "is_tmpfs": disk.is_mounted}


if __name__ == "__main__":
    for task in sys.argv[4:]:
        found = main(Path(sys.argv[1]) / task, task, seed=int(sys.argv[2]), tries=int(sys.argv[3]))
        print(json.dumps(found), flush=True)
