"""`vzoom eval`: a benchmark asked of a model; every prediction in one file."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...config import Sampling
from ...eval import SWEEPS, Policy, RunConfig
from ..console import note, print_json
from ..eval_output import Progress, print_list, print_run, print_sweep
from ..exit_codes import ExitCode
from ..loading import load_zoomer
from ..options import (
    add_limits,
    add_model_options,
    add_out,
    add_settings,
    cache_home,
    given,
    share,
)

if TYPE_CHECKING:
    from vzoom.eval import Benchmark
    from vzoom.protocol import Judge

_POLICY_FLAGS = {"name": "policy"}
_RUN_FIELDS = ("seed", "temperature", "limit", "subtitles", "max_sessions", "block", "revision")
_RUN_FLAGS = {"revision": "data-revision"}  # --revision is the model's, as in every command
# Options that a sweep sets itself, beside those of the policy.
_SWEPT = {"zooms": ("max_zooms",), "glance": ("glance_max_frames",), "frames": ("budget",)}

_SWEEP_LINES = "\n".join(f"  {name:10}  {meaning}" for name, meaning in SWEEPS.items())
_EPILOG = f"""policies:
  zoom        a glance, then zooms; --budget is the most frames of both together
  uniform     --budget frames over the whole video and no zooms; with --fps at that rate
  gated       the glance alone, and zooms only if the model's confidence is below --confidence
  early-stop  one more zoom allowed each time, until the model is confident

sweeps, for accuracy against what it costs; the page of `vzoom report RUN/*` draws them as curves:
{_SWEEP_LINES}

Killed or stopped, run the same command again. Several processes share the work: start them with `accelerate launch`,
or each with its own --shard I/N, or --ray N; their answers are those of one process. The last one to finish writes
RUN/predictions.sqlite. Exit code 1: other processes are still at work, or questions ended in an error.

Questions without options need a judge, an OpenAI-compatible endpoint: VZOOM_JUDGE_URL, VZOOM_JUDGE_MODEL,
VZOOM_JUDGE_KEY; with --no-judge they are counted as unjudged.

examples:
  vzoom eval --list
  vzoom eval --benchmark world --out runs/zoom
  vzoom eval --benchmark world --policy uniform --budget 64 --out runs/uniform
  vzoom eval --benchmark world --sweep zooms --out runs/zooms
  vzoom eval --benchmark longvideobench --cache ./longvideobench --fetch
  vzoom eval --benchmark lvbench --cache ./lvbench --model ./checkpoint --out runs/lvbench
  accelerate launch --num_processes 8 -m vzoom eval --benchmark lvbench --cache ./lvbench --out runs/lvbench
  vzoom report runs/zoom runs/uniform --out report.html
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "eval",
        help="ask a model the questions of a benchmark",
        description="Ask a model the questions of a benchmark; score and keep every prediction.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="the benchmarks, and which files each reads; nothing runs")
    share(parser, "--json")
    parser.add_argument(
        "--fetch", action="store_true", help="bring the benchmark from the hub into --cache; nothing runs"
    )
    parser.add_argument("--benchmark", metavar="NAME", help="one of --list")
    share(parser, "--cache", "--limit")
    add_out(parser, "a folder; the same command resumes from what it holds", metavar="RUN")
    add_settings(parser, RunConfig, ("subtitles", "revision"), flags=_RUN_FLAGS)
    parser.add_argument("--no-judge", action="store_true", help="count what needs a judge as unjudged")
    policy = parser.add_argument_group("policy")
    add_settings(policy, Policy, flags=_POLICY_FLAGS)
    policy.add_argument("--sweep", choices=tuple(SWEEPS), help="one run for each setting, in folders below --out")
    work = parser.add_argument_group("work")
    work.add_argument("--shard", metavar="I/N", help="do part I of N, from 0 (default: accelerate's, else all)")
    work.add_argument("--ray", type=int, metavar="N", help="N parts as tasks of a Ray cluster that shares --out")
    work.add_argument(
        "--gpus", type=float, default=1.0, metavar="X", help="GPUs of each Ray task (default: %(default)g)"
    )
    share(work, "--max-sessions", default=RunConfig.max_sessions)
    add_settings(work, RunConfig, ("block",))
    sampling = parser.add_argument_group("sampling")
    add_settings(sampling, Sampling, ("temperature",))
    share(sampling, "--seed")
    add_limits(parser)
    add_model_options(parser)
    parser.set_defaults(run=run, resumes=True)


def run(args: argparse.Namespace) -> ExitCode:
    """Run the command."""
    if args.list:
        print_list(as_json=args.json)
        return ExitCode.OK
    from vzoom.eval import PREDICTIONS, benchmark_named, run_on_ray

    if not args.benchmark or (args.out is None and not args.fetch):
        raise ValueError("name a --benchmark and a folder to --out, or ask for the --list")
    benchmark = benchmark_named(args.benchmark)
    if args.fetch:
        return _fetch(args, benchmark)
    folder = _cache(args.cache, benchmark)
    runs = _runs(args)
    warnings: tuple[str, ...] = ()
    if args.ray is not None:
        run_on_ray(sys.argv[1:], num_shards=args.ray, gpus=args.gpus)
    else:
        is_whole, warnings = _ask(args, benchmark, folder, runs)
        if not is_whole:
            return ExitCode.OK if "WORLD_SIZE" in os.environ else ExitCode.FAILED
    if args.sweep:
        files = {one.name: one.out / PREDICTIONS for one in runs}
        print_sweep(args.sweep, files, benchmark, warnings, as_json=args.json)
    else:
        print_run(args.out / PREDICTIONS, benchmark, warnings, as_json=args.json)
    return _failed([one.out / PREDICTIONS for one in runs])


def _failed(files: Sequence[Path]) -> ExitCode:
    """FAILED, and a note, if conversations of finished runs ended in an error."""
    from vzoom.eval import read_rows

    details = [row.prediction.detail for path in files for row in read_rows(path) if row.prediction.verdict == "failed"]
    if not details:
        return ExitCode.OK
    note(f"{len(details)} questions ended in an error and are not in the accuracy; the first: {details[0]}")
    return ExitCode.FAILED


def _fetch(args: argparse.Namespace, benchmark: Benchmark) -> ExitCode:
    from vzoom.eval import fetch

    if args.cache is None:
        raise ValueError("name the folder to fetch into with --cache: videos of a data set take 10 GB and more")
    there, named = fetch(benchmark, args.cache, revision=args.data_revision, say=note)
    if args.json:
        print_json({"benchmark": benchmark.name, "cache": str(args.cache), "videos": there, "videos_named": named})
    else:
        print(f"{there} of {named} videos are there")
    return ExitCode.OK


@dataclass(frozen=True)
class _Run:
    """One run of the command: the only one, or a point of a sweep. zoom: changes to the model's `ZoomConfig`."""

    name: str
    out: Path
    config: RunConfig
    zoom: Mapping[str, int]


def _runs(args: argparse.Namespace) -> list[_Run]:
    """ValueError for an option that the sweep sets itself."""
    from vzoom.eval import points_of

    policy = Policy(**given(args, Policy, flags=_POLICY_FLAGS))
    said = given(args, RunConfig, _RUN_FIELDS, flags=_RUN_FLAGS)
    if args.sweep is None:
        return [_Run(args.out.name, args.out, RunConfig(policy, **said), {})]
    for option in ("policy", "fps", "confidence", *_SWEPT.get(args.sweep, ())):
        if getattr(args, option) is not None:
            raise ValueError(f"--sweep {args.sweep} sets --{option.replace('_', '-')} itself: leave it out")
    points = points_of(args.sweep, policy)
    return [_Run(p.name, args.out / p.name, RunConfig(p.policy, **said), p.zoom) for p in points]


def _ask(
    args: argparse.Namespace, benchmark: Benchmark, folder: Path, runs: Sequence[_Run]
) -> tuple[bool, tuple[str, ...]]:
    """Do this process's part of every run; whether all of them are whole with it, and what loading warned of."""
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
            folder,
            one.out,
            one.config,
            shard=shard,
            judge=judge,
            judge_name=judge_name,
            progress=Progress(shard),
            say=note,
        )
    if whole is None:  # of the last run: whoever finishes that one last finishes the others no later
        note(f"shard {shard} is done; the others are still at work, or were stopped")
    return whole is not None, zoomer.checkpoint.warnings


def _cache(cache: Path | None, benchmark: Benchmark) -> Path:
    """The folder with the benchmark's files. ValueError if only the user can say where they are."""
    if cache is not None:
        if not cache.is_dir():
            if benchmark.render is None:
                raise ValueError(f"--cache {cache}: no such folder; --fetch makes one from the hub")
            cache.mkdir(parents=True)
        return cache
    if benchmark.render is None:
        raise ValueError(
            f"{benchmark.name} needs --cache, the folder with {', '.join(benchmark.files)}; --fetch makes one"
        )
    own = cache_home() / benchmark.name
    own.mkdir(parents=True, exist_ok=True)
    return own


def _judge(benchmark: Benchmark, none: bool) -> tuple[Judge | None, str | None]:
    """The judge and the name of its model. ValueError if one is needed and the environment names none."""
    if none or not benchmark.needs_judge:
        return None, None
    from vzoom.eval import HTTPJudge

    judge = HTTPJudge.from_environment()
    return judge, " ".join(endpoint.model for endpoint in judge.chat.endpoints)
