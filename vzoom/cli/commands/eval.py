"""`vzoom eval`: a benchmark asked of a model; every prediction in one file."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import note, print_json
from ..eval_output import Progress, print_list, print_run, print_sweep
from ..options import add_looking_options, add_model_options, load_zoomer

if TYPE_CHECKING:
    from vzoom.eval import Benchmark, Policy, RunConfig
    from vzoom.protocol import Judge

_UNFINISHED = 1

# Not asked of vzoom.eval, which needs torch: `vzoom --help` is quick. Tests hold them equal.
POLICIES = ("zoom", "uniform", "gated", "early-stop")
SWEEPS = ("zooms", "glance", "frames", "fps", "gated", "early-stop")

_SWEPT = {"zooms": ("max_zooms",), "glance": ("glance_frames",), "frames": ("budget",)}  # options beside the policy's

_EPILOG = """policies:
  zoom        a glance, then zooms; --budget is the most frames of both together
  uniform     --budget frames over the whole video and no zooms; with --fps at that rate
  gated       the glance alone, and zooms only where the model's confidence is below --confidence
  early-stop  one more zoom allowed each time, until it is confident

sweeps, for accuracy against what it costs; the page of `vzoom report RUN/*` draws them as curves:
  zooms       0, 1 … 4 zooms allowed             frames      uniform, 8, 16 … 128 frames
  glance      8, 16, 32, 64 frames of glance     fps         uniform, 0.125, 0.25 … 2 frames a second
  gated, early-stop                              confidence 0.5, 0.8, 0.9, 0.95, 0.99

Killed or stopped, run the same command again. Several processes share the work: start them with `accelerate launch`,
or each with its own --shard i/n, or --ray n; their answers are those of one process. The last one to finish writes
RUN/predictions.sqlite. Exit code 1: other processes are still at work.

Questions without options need a judge, an OpenAI-compatible endpoint: VZOOM_JUDGE_URL, VZOOM_JUDGE_MODEL,
VZOOM_JUDGE_KEY; with --no-judge they are counted as unjudged.

examples:
  vzoom eval --list
  vzoom eval --benchmark world --out runs/zoom
  vzoom eval --benchmark world --policy uniform --budget 64 --out runs/uniform
  vzoom eval --benchmark world --sweep zooms --out runs/zooms
  vzoom eval --benchmark longvideobench --root ./longvideobench --fetch
  vzoom eval --benchmark lvbench --root ./lvbench --model ./checkpoint --out runs/lvbench
  accelerate launch --num_processes 8 -m vzoom eval --benchmark lvbench --root ./lvbench --out runs/lvbench
  vzoom report runs/zoom runs/uniform --out report.html
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "eval",
        help="ask a model a benchmark's questions",
        description="Ask a model a benchmark's questions; score and keep every prediction.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="the benchmarks, and which files each reads; nothing runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument(
        "--fetch", action="store_true", help="bring the benchmark from the hub into --root; nothing runs"
    )
    parser.add_argument("--benchmark", metavar="B", help="one of --list")
    parser.add_argument("--root", type=Path, metavar="DIR", help="the benchmark's files as they are published")
    parser.add_argument("--out", type=Path, metavar="RUN", help="a folder; what is there is gone on with")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    parser.add_argument("--subtitles", action="store_true", help="with the benchmark's subtitles in the question")
    parser.add_argument("--revision", metavar="R", help="of the data, for the protocol's hash")
    parser.add_argument("--no-judge", action="store_true", help="count what needs a judge as unjudged")
    policy = parser.add_argument_group("policy")
    policy.add_argument("--policy", choices=POLICIES, help="how the video is looked at (default: zoom)")
    policy.add_argument("--budget", type=int, metavar="N", help="most frames of a conversation (default: the model's)")
    policy.add_argument("--fps", type=float, metavar="FPS", help="uniform only: a fixed rate, at most --budget frames")
    policy.add_argument("--confidence", type=float, metavar="P", help="enough of it (default: 0.9)")
    policy.add_argument("--sweep", choices=SWEEPS, help="a run a setting, each in a folder below --out")
    work = parser.add_argument_group("work")
    work.add_argument("--shard", metavar="I/N", help="do part I of N, from 0 (default: accelerate's, else all)")
    work.add_argument("--ray", type=int, metavar="N", help="N parts as tasks of a Ray cluster that shares --out")
    work.add_argument("--gpus", type=float, default=1.0, metavar="G", help="GPUs of a Ray task (default: 1)")
    work.add_argument("--batch", type=int, default=8, metavar="B", help="conversations at once (default: 8)")
    work.add_argument("--block", type=int, metavar="N", help="questions kept at once (default: twice --batch)")
    work.add_argument("--seed", type=int, default=0, metavar="S", help="for a temperature above 0 (default: 0)")
    work.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 (default) is greedy")
    add_looking_options(parser)
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.list:
        print_list(as_json=args.json)
        return 0
    from vzoom.eval import PREDICTIONS, benchmark_named, run_on_ray

    if not args.benchmark or (args.out is None and not args.fetch):
        raise ValueError("name a --benchmark and a folder to --out, or ask for the --list")
    benchmark = benchmark_named(args.benchmark)
    if args.fetch:
        return _fetch(args, benchmark)
    root = _root(args.root, benchmark)
    runs = _runs(args)
    if args.ray is not None:
        run_on_ray(sys.argv[1:], num_shards=args.ray, gpus=args.gpus)
    elif not _ask(args, benchmark, root, runs):
        return 0 if "WORLD_SIZE" in os.environ else _UNFINISHED
    if args.sweep:
        files = {one.name: one.out / PREDICTIONS for one in runs}
        print_sweep(args.sweep, files, benchmark, as_json=args.json)
    else:
        print_run(args.out / PREDICTIONS, benchmark, as_json=args.json)
    return 0


def _fetch(args: argparse.Namespace, benchmark: Benchmark) -> int:
    from vzoom.eval import fetch

    if args.root is None:
        raise ValueError("name the folder to fetch into with --root: videos of a data set take 10 GB and more")
    there, named = fetch(benchmark, args.root, revision=args.revision, say=note)
    if args.json:
        print_json({"benchmark": benchmark.name, "root": str(args.root), "videos": there, "videos_named": named})
    else:
        print(f"{there} of {named} videos are there")
    return 0


@dataclass(frozen=True)
class _Run:
    """One run of the command: the only one, or a point of a sweep. zoom: changes to the model's `ZoomConfig`."""

    name: str
    out: Path
    config: RunConfig
    zoom: Mapping[str, int]


def _runs(args: argparse.Namespace) -> list[_Run]:
    """ValueError for an option that the sweep sets itself."""
    from vzoom.eval import Policy, points_of

    confidence = 0.9 if args.confidence is None else args.confidence
    policy = Policy(args.policy or "zoom", budget=args.budget, fps=args.fps, confidence=confidence)
    if args.sweep is None:
        return [_Run(args.out.name, args.out, _config(args, policy), {})]
    for option in ("policy", "fps", "confidence", *_SWEPT.get(args.sweep, ())):
        if getattr(args, option) is not None:
            raise ValueError(f"--sweep {args.sweep} sets --{option.replace('_', '-')} itself: leave it out")
    points = points_of(args.sweep, policy)
    return [_Run(p.name, args.out / p.name, _config(args, p.policy), p.zoom) for p in points]


def _ask(args: argparse.Namespace, benchmark: Benchmark, root: Path, runs: Sequence[_Run]) -> bool:
    """This process's part of every run; whether all of them are whole with it."""
    from vzoom.eval import Shard, local_device
    from vzoom.eval import run as run_shard

    shard = Shard.parse(args.shard) if args.shard else Shard.from_environment()
    judge, judge_name = _judge(benchmark, args.no_judge)
    args.device = local_device(args.device)
    zoomer = load_zoomer(args, warn=benchmark.name != "world")
    own = zoomer.config
    whole = None
    for one in runs:
        if len(runs) > 1:
            note(f"{one.name}, to {one.out}")
        zoomer.config = own.override(**one.zoom)
        whole = run_shard(
            zoomer,
            benchmark,
            root,
            one.out,
            one.config,
            shard=shard,
            judge=judge,
            judge_name=judge_name,
            progress=Progress(shard),
        )
    if whole is None:  # of the last run: whoever finishes that one last finishes the others no later
        note(f"shard {shard} is done; the others are still at work, or were stopped")
    return whole is not None


def _config(args: argparse.Namespace, policy: Policy) -> RunConfig:
    from vzoom.eval import RunConfig

    return RunConfig(
        policy,
        seed=args.seed,
        temperature=args.temperature,
        limit=args.limit,
        subtitles=args.subtitles,
        sessions=args.batch,
        block=2 * args.batch if args.block is None else args.block,
        revision=args.revision,
    )


def _root(root: Path | None, benchmark: Benchmark) -> Path:
    if root is not None:
        if not root.is_dir():
            if benchmark.render is None:
                raise ValueError(f"--root {root}: no such folder; --fetch makes one from the hub")
            root.mkdir(parents=True)
        return root
    if benchmark.render is None:
        raise ValueError(
            f"{benchmark.name} needs --root, the folder with {', '.join(benchmark.files)}; --fetch makes one"
        )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vzoom" / benchmark.name
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _judge(benchmark: Benchmark, none: bool) -> tuple[Judge | None, str | None]:
    """The judge and the name of its model. ValueError where one is needed and the environment names none."""
    if none or not benchmark.needs_judge:
        return None, None
    from vzoom.eval import HTTPJudge

    judge = HTTPJudge.from_environment()
    return judge, " ".join(endpoint.model for endpoint in judge.chat.endpoints)
