"""One system under test in a process of its own: reads workloads from standard input, answers with times.

    python bench/child.py --system vllm --model DIR --dtype float32      (started by harness.py)

Lines out: `READY {json}` once, then `RESULT {json}` for each line `{"workload": PATH, "checked": bool}` that comes in.
Runs in the system's own environment, so it imports nothing but numpy and torch before the system is chosen.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from peers import SYSTEMS, Clock, make_system
from workload import Workload


def peak_rss_mib() -> float:
    """Largest resident set of this process so far. (getrusage would count the parent's, too, from before exec.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM: peak memory is measured on Linux only")


def preloaded() -> str:
    """The libraries of LD_PRELOAD by name, without where they lie."""
    return ":".join(Path(library).name for library in os.environ.get("LD_PRELOAD", "").split(":"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", required=True, choices=sorted(SYSTEMS))
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", required=True, choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    import torch

    clock = Clock()
    began = clock.now()
    torch.set_num_threads(options.threads)
    system = make_system(options.system, model=options.model, dtype=options.dtype)
    ready = clock.since(began)

    def say(tag: str, **values: object) -> None:
        print(tag, json.dumps(values), flush=True)

    versions = {"python": sys.version.split()[0], "torch": torch.__version__, **system.versions}
    settings = {"threads": torch.get_num_threads(), "preload": preloaded(), **system.settings}
    say("READY", versions=versions, settings=settings, ready_wall=ready.wall, ready_cpu=ready.cpu, rss=peak_rss_mib())

    for line in sys.stdin:
        request = json.loads(line)
        work = Workload.load(Path(request["workload"]))
        system.checked = request["checked"]
        system.prepare(work)
        system.phases.reset()
        began = clock.now()
        tokens = system.run(work)
        spent = clock.since(began)
        say(
            "RESULT",
            wall=spent.wall,
            cpu=spent.cpu,
            phases=system.phases.seconds,
            decode_tokens=system.phases.decode_tokens,
            prompt_tokens=system.prompt_tokens,
            tokens=tokens,
            logprobs=system.logprobs if system.checked else None,
            peak_rss_mib=peak_rss_mib(),
            load_average=os.getloadavg()[0],
        )


if __name__ == "__main__":
    main()
