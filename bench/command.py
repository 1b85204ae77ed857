"""The command line that bench_session.py and bench_rollout.py share: which entries, which systems, where they live."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import report
from harness import HERE, Entry, Launcher, measure, tell
from peers import SYSTEMS

RESULTS = HERE / "results" / "session.json"
LOGS = HERE.parent / "build" / "bench-logs"  # what the systems write to standard error
VLLM_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


def parser(description: str, entries: Sequence[str]) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--entries", nargs="+", default=list(entries), metavar="WORKLOAD/MODEL/DTYPE", help="default: %(default)s"
    )
    made.add_argument(
        "--systems", default="vzoom,vllm", help=f"of {', '.join(SYSTEMS)}; those without an environment are left out"
    )
    made.add_argument("--peers", type=Path, help="folder with hf/ and vv/ (environments of the peers) and models/")
    made.add_argument("--python-hf", type=Path, help="interpreter with transformers for the hf systems")
    made.add_argument("--python-vllm", type=Path, help="interpreter with vLLM for CPUs")
    made.add_argument("--models", type=Path, help="folder with MODEL-DTYPE checkpoints; made where there is none")
    made.add_argument("--preload", help="LD_PRELOAD of the peers; default: libiomp5 and tcmalloc found below --peers")
    made.add_argument("--repeats", type=int, default=3, help="timed runs of each system, behind one that is not")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--resume", action="store_true", help="leave out entries that --out holds already")
    made.add_argument("--out", type=Path, default=RESULTS, help="default: %(default)s")
    return made


def launchers(options: argparse.Namespace) -> list[Launcher]:
    """Of the systems asked for, those whose environment is there; the others are named."""
    base: Path | None = options.peers
    pythons = {
        "vzoom": Path(sys.executable),
        "vllm": options.python_vllm or (base and base / "vv/bin/python"),
        "hf": options.python_hf or (base and base / "hf/bin/python"),
    }
    if options.preload is not None:
        preload = [Path(p) for p in options.preload.split(":") if p]
    else:
        # What vLLM's documentation asks for on a CPU.
        patterns = ("vv/lib/libiomp5.so", "tcm/usr/lib/*/libtcmalloc_minimal.so.4")
        preload = [found.absolute() for pattern in patterns for found in (base.glob(pattern) if base else ())]
    paths = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(HERE.parent))))
    found: list[Launcher] = []
    for name in options.systems.split(","):
        if name not in SYSTEMS:
            raise ValueError(f"no system {name!r}: choose of {', '.join(SYSTEMS)}")
        python = pythons[name.partition("_")[0]]
        if python is None or not python.exists():
            tell(f"{name}: no environment ({python or 'give --peers or its --python'}); left out")
        elif name == "vzoom":
            found.append(Launcher(name, python.absolute(), (), {"PYTHONPATH": paths}))
        else:
            # The tree's own folders must not be importable there: one is called `kernels`.
            found.append(Launcher(name, python.absolute(), preload, {**VLLM_SETTINGS, "PYTHONPATH": ""}))
    if not found:
        raise ValueError("no system to run")
    return found


def checkpoint(options: argparse.Namespace, entry: Entry) -> Path:
    """The folder of the entry's model; made where none was given."""
    given = options.models or (options.peers and options.peers / "models")
    folder: Path = (given or HERE.parent / "build" / "bench-models") / f"{entry.size}-{entry.dtype}"
    if folder.joinpath("config.json").is_file():
        return folder.absolute()
    if given:
        raise ValueError(f"{folder} holds no checkpoint: make one with bench/make_models.py, or leave --models out")
    import make_models

    tell(f"making {folder}")
    make_models.in_own_process(entry.size, entry.dtype, folder)
    return folder.absolute()


def machine(threads: int) -> dict[str, Any]:
    """Where and when."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown"),
        "cores_allowed": len(os.sched_getaffinity(0)),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "threads": threads,
    }


def run(options: argparse.Namespace) -> int:
    """Measure, keep and print. How many entries could not be measured; each is told with its reason."""
    entries = [Entry.parse(name) for name in options.entries]
    if options.repeats < 1 or options.threads < 1:
        raise ValueError(f"--repeats {options.repeats} and --threads {options.threads} must be 1 or more")
    chosen = launchers(options)
    held, failed = report.load(options.out), 0
    for entry in entries:
        if options.resume and str(entry) in held["entries"]:
            tell(f"{entry} is in {options.out} already")
            continue
        place = machine(options.threads)
        try:
            measured = measure(
                entry,
                chosen,
                checkpoint(options, entry),
                repeats=options.repeats,
                threads=options.threads,
                log_folder=LOGS,
            )
        except (ValueError, RuntimeError) as error:  # the other entries may still be had
            tell(f"{entry}: NOT MEASURED: {error}")
            failed += 1
            continue
        place["load_average_after"] = [round(value, 2) for value in os.getloadavg()]
        measured["systems"] = {name: report.medians(system) for name, system in measured["systems"].items()}
        held = report.merge(options.out, str(entry), {**place, "repeats": options.repeats, **measured})
    if held["entries"]:
        print(report.table(held, [str(entry) for entry in entries if str(entry) in held["entries"]]))
    return failed


def main(description: str, entries: Sequence[str]) -> None:
    made = parser(description, entries)
    options = made.parse_args()
    try:
        made.exit(1 if run(options) else 0)
    except ValueError as error:
        made.exit(2, f"{made.prog}: {error}\n")
