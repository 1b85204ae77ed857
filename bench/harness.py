"""Runs systems in turn on the same workloads, one process each, and checks that they sampled the same tokens.

A system's process is started for one entry (workload, model, dtype) and kept through it. The first run of each is not
timed: its tokens are compared, and the peak memory of the process is read behind it. Then all systems run in turn,
`repeats` times, each time on new ids and new frames, so no cache holds anything of an earlier run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workload import SHAPES, ControlIds, Workload

HERE = Path(__file__).parent
WARM_UP_SEED = 1000
# How far log-probabilities may be apart. In float32 rounding gives some 1e-6 and wrong positions 1e-2; in bfloat16
# rounding gives 2e-2, so that only what is grossly wrong is found: float32 is the proof.
LOGPROBS_APART = {"float32": 1e-4, "bfloat16": 0.1}


@dataclass(frozen=True)
class Entry:
    """What is measured: a workload on a model in a dtype."""

    workload: str
    size: str
    dtype: str

    @classmethod
    def parse(cls, name: str) -> Entry:
        """From "single/small/float32". ValueError where it is no such name."""
        parts = name.split("/")
        if len(parts) != 3 or parts[0] not in SHAPES or parts[2] not in ("float32", "bfloat16"):
            raise ValueError(f"an entry is {'|'.join(SHAPES)}/MODEL/float32|bfloat16, got {name!r}")
        return cls(*parts)

    def __str__(self) -> str:
        return f"{self.workload}/{self.size}/{self.dtype}"


@dataclass(frozen=True)
class Launcher:
    """How a system's process is started. `preload` is its LD_PRELOAD."""

    system: str
    python: Path
    preload: Sequence[Path] = ()
    environment: dict[str, str] = field(default_factory=dict)


class Child:
    """A system in its process. Use as a context: the process ends with it."""

    def __init__(self, launcher: Launcher, model: Path, dtype: str, threads: int, log: Path) -> None:
        self.name, self._log = launcher.system, log
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONWARNINGS": "ignore",
            **launcher.environment,
        }
        if launcher.preload:
            environment["LD_PRELOAD"] = ":".join(map(str, launcher.preload))
        command = [str(launcher.python), str(HERE / "child.py"), "--system", launcher.system, "--model", str(model)]
        command += ["--dtype", dtype, "--threads", str(threads)]
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )

    def __enter__(self) -> Child:
        self.ready = self._answer("READY")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def run(self, workload: Path, *, checked: bool) -> dict[str, Any]:
        """What child.py says of one run; `checked` asks for log-probabilities."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"workload": str(workload), "checked": checked}) + "\n")
        self._process.stdin.flush()
        return self._answer("RESULT")

    def _answer(self, tag: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # libraries print there, too
            if line.startswith(f"{tag} "):
                return json.loads(line[len(tag) + 1 :])
        self.__exit__()
        tail = "\n".join(self._log.read_text().splitlines()[-15:])
        raise RuntimeError(f"{self.name} ended with {self._process.returncode} instead of {tag}:\n{tail}")


def compare(wanted: dict[str, Any], got: dict[str, Any]) -> dict[str, Any]:
    """How far two results agree. Rounding decides near ties, and what follows the first difference follows from it.

    prompt_tokens_equal: both counted the same contexts. equal: every token. rollouts[i]: tokens of rollout i, all turns
    in order, that agree before the first difference; of: how many there are. logprob_difference: the largest where
    both results hold log-probabilities, up to and with the first difference (either token is the likeliest behind the
    same context): random models repeat themselves, so equal tokens alone would show little.
    """
    agreed, total, apart = [], 0, 0.0
    checked = bool(wanted.get("logprobs")) and bool(got.get("logprobs"))
    for rollout in range(len(wanted["tokens"][0])):
        pairs = [
            pair
            for ours, theirs in zip(wanted["tokens"], got["tokens"], strict=True)
            for pair in zip(ours[rollout], theirs[rollout], strict=True)
        ]
        total = len(pairs)
        agreed.append(next((i for i, (a, b) in enumerate(pairs) if a != b), total))
        if checked:
            ours, theirs = ([p for turn in result["logprobs"] for p in turn[rollout]] for result in (wanted, got))
            apart = max([apart, *(abs(a - b) for a, b in zip(ours[: agreed[-1] + 1], theirs, strict=False))])
    return {
        "prompt_tokens_equal": wanted["prompt_tokens"] == got["prompt_tokens"],
        "equal": all(count == total for count in agreed),
        "rollouts": agreed,
        "of": total,
        "logprob_difference": apart if checked else None,
    }


def check(entry: Entry, reference: str, results: dict[str, dict[str, Any]], *, work: Workload) -> dict[str, Any]:
    """Agreement of every system with the reference. ValueError where counts, float32 tokens or probabilities differ."""
    shape = work.shape
    for name, result in results.items():
        counts = {len(tokens) for turn in result["tokens"] for tokens in turn}
        if sum(len(tokens) for turn in result["tokens"] for tokens in turn) != shape.sampled_tokens:
            raise ValueError(
                f"{entry}: {name} sampled turns of {sorted(counts)} tokens, not {shape.sampled_tokens} in all"
            )
    agreement = {}
    for name, result in results.items():
        if name == reference:
            continue
        agreement[name] = found = compare(results[reference], result)
        if not found["prompt_tokens_equal"]:
            counted = f"{result['prompt_tokens']}, {reference} {results[reference]['prompt_tokens']}"
            raise ValueError(f"{entry}: {name} counted contexts of {counted}")
        if entry.dtype == "float32" and not found["equal"]:
            raise ValueError(
                f"{entry}: {name} and {reference} part in float32, after {found['rollouts']} of {found['of']} tokens "
                "a rollout: one of them is wrong, so nothing is timed"
            )
        if not found["logprob_difference"] <= LOGPROBS_APART[entry.dtype]:
            raise ValueError(
                f"{entry}: log-probabilities of {name} and {reference} are {found['logprob_difference']:.1e} apart "
                f"in {entry.dtype}, more than {LOGPROBS_APART[entry.dtype]:g}: one is wrong, so nothing is timed"
            )
    return agreement


def measure(
    entry: Entry, launchers: Sequence[Launcher], model: Path, *, repeats: int, threads: int, log_folder: Path
) -> dict[str, Any]:
    """Everything known of one entry: agreement, and for each system its settings and its runs, in order."""
    ids = ControlIds.of_checkpoint(model)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vzoom-bench-")))
        log_folder.mkdir(parents=True, exist_ok=True)
        children = []
        for launcher in launchers:
            log = log_folder / f"{launcher.system}.log"
            children.append(stack.enter_context(Child(launcher, model, entry.dtype, threads, log)))
            tell(f"{entry}  {launcher.system} is ready after {children[-1].ready['ready_wall']:.1f} s")

        def in_turn(seed: int, order: Iterable[Child]) -> tuple[Workload, dict[str, dict[str, Any]]]:
            work = Workload.make(SHAPES[entry.workload], ids, seed)
            path = scratch / "workload.npz"
            work.save(path)
            results = {}
            for child in order:
                results[child.name] = result = child.run(path, checked=seed == WARM_UP_SEED)
                kind = "check" if seed == WARM_UP_SEED else f"run {seed + 1}"
                tell(f"{entry}  {child.name} {kind}: {result['cpu']:.2f} CPU s, {result['wall']:.2f} s")
            return work, results

        # The first one given is the reference unless it is vzoom itself: a peer is the better witness.
        reference = next((c.name for c in children if c.name != "vzoom"), "vzoom")
        work, warm = in_turn(WARM_UP_SEED, children)
        agreement = check(entry, reference, warm, work=work)
        systems = {
            child.name: {**child.ready, "peak_rss_mib": warm[child.name]["peak_rss_mib"], "runs": []}
            for child in children
        }
        for repeat in range(repeats):
            # Who comes first changes, so that a drift of the machine does not always meet the same one.
            order = children if repeat % 2 == 0 else children[::-1]
            _, results = in_turn(repeat, order)
            for name, result in results.items():
                agrees = compare(results[reference], result)["equal"]
                run = {key: value for key, value in result.items() if key != "tokens"}
                systems[name]["runs"].append({**run, "agrees": agrees})
    return {
        "reference": reference,
        "agreement": agreement,
        "final_tokens": work.final_tokens,
        "sampled_tokens": work.shape.sampled_tokens,
        "distinct_tokens": len({token for turn in warm[reference]["tokens"] for own in turn for token in own}),
        "systems": systems,
    }


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
