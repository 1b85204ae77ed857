"""`vzoom eval`: a benchmark asked of a model; every prediction in one file."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import note, print_json, printable
from .options import add_looking_options, add_model_options, load_zoomer

if TYPE_CHECKING:
    from vzoom.eval.item import Benchmark
    from vzoom.eval.judge import Judge
    from vzoom.eval.policy import Policy
    from vzoom.eval.run import Done, RunConfig
    from vzoom.eval.shard import Shard

_UNFINISHED = 1

# Not asked of vzoom.eval, which needs torch: `vzoom --help` is quick. A test holds the two equal.
POLICIES = ("zoom", "uniform", "gated", "early-stop")

_EPILOG = """policies:
  zoom        a glance, then zooms; --budget is the most frames of both together
  uniform     --budget frames over the whole video and no zooms; with --fps at that rate
  gated       the glance alone, and zooms only where the model's confidence is below --confidence
  early-stop  one more zoom allowed each time, until it is confident

Killed or stopped, run the same command again. Several processes share the work: start them with `accelerate launch`,
or each with its own --shard i/n, or --ray n; their answers are those of one process. The last one to finish writes
RUN/predictions.sqlite. Exit code 1: other processes are still at work.

Questions without options need a judge, an OpenAI-compatible endpoint: VZOOM_JUDGE_URL, VZOOM_JUDGE_MODEL,
VZOOM_JUDGE_KEY; with --no-judge they are counted as unjudged.

examples:
  vzoom eval --list
  vzoom eval --benchmark world --out runs/zoom
  vzoom eval --benchmark world --policy uniform --budget 64 --out runs/uniform
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
    parser.add_argument("--benchmark", metavar="B", help="one of --list")
    parser.add_argument("--root", type=Path, metavar="DIR", help="the benchmark's files as they are published")
    parser.add_argument("--out", type=Path, metavar="RUN", help="a folder; what is there is gone on with")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    parser.add_argument("--subtitles", action="store_true", help="with the benchmark's subtitles in the question")
    parser.add_argument("--revision", metavar="R", help="of the data, for the protocol's hash")
    parser.add_argument("--no-judge", action="store_true", help="count what needs a judge as unjudged")
    policy = parser.add_argument_group("policy")
    policy.add_argument("--policy", choices=POLICIES, default="zoom", help="how the video is looked at (default: zoom)")
    policy.add_argument("--budget", type=int, metavar="N", help="most frames of a conversation (default: the model's)")
    policy.add_argument("--fps", type=float, metavar="FPS", help="uniform only: a fixed rate, at most --budget frames")
    policy.add_argument("--confidence", type=float, default=0.9, metavar="P", help="enough of it (default: 0.9)")
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
        return _list(args.json)
    from vzoom.eval.benchmarks import benchmark_named
    from vzoom.eval.policy import Policy
    from vzoom.eval.shard import Shard

    if not args.benchmark or args.out is None:
        raise ValueError("name a --benchmark and a folder to --out, or ask for the --list")
    benchmark = benchmark_named(args.benchmark)
    root = _root(args.root, benchmark)
    policy = Policy(args.policy, budget=args.budget, fps=args.fps, confidence=args.confidence)
    config = _config(args, policy)
    if args.ray is not None:
        return _on_ray(args)
    shard = Shard.parse(args.shard) if args.shard else Shard.from_environment()
    return _ask(args, benchmark, root, config, shard)


def _ask(args: argparse.Namespace, benchmark: Benchmark, root: Path, config: RunConfig, shard: Shard) -> int:
    from vzoom.eval.figures import figures_of
    from vzoom.eval.run import run as run_shard
    from vzoom.eval.shard import local_device
    from vzoom.eval.store import content_hash, read_rows, read_settings

    judge, judge_name = _judge(benchmark, args.no_judge)
    args.device = local_device(args.device)
    zoomer = load_zoomer(args, warn=benchmark.name != "world")
    whole = run_shard(
        zoomer,
        benchmark,
        root,
        args.out,
        config,
        shard=shard,
        judge=judge,
        judge_name=judge_name,
        progress=_Progress(shard),
    )
    if whole is None:
        note(f"shard {shard} is done; the others are still at work, or were stopped")
        return 0 if "WORLD_SIZE" in os.environ else _UNFINISHED
    figures = {"benchmark": benchmark.name, "model": zoomer.name, "policy": args.policy}
    figures |= figures_of(read_rows(whole), headline=benchmark.headline).to_json()
    figures |= {
        "protocol_hash": read_settings(whole)["protocol_hash"],
        "content_hash": content_hash(whole),
        "predictions": str(whole),
    }
    _print(figures, args.json)
    return 0


def _config(args: argparse.Namespace, policy: Policy) -> RunConfig:
    from vzoom.eval.run import RunConfig

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


def _on_ray(args: argparse.Namespace) -> int:
    from vzoom.eval.ray_driver import run_on_ray

    words = [word for word in sys.argv[1:] if word != "--json"]
    codes = run_on_ray(words, num_shards=args.ray, gpus=args.gpus)
    return max(codes) if any(code > _UNFINISHED for code in codes) else min(codes)


def _root(root: Path | None, benchmark: Benchmark) -> Path:
    if root is not None:
        if not root.is_dir():
            if benchmark.render is None:
                raise ValueError(f"--root {root}: no such folder")
            root.mkdir(parents=True)
        return root
    if benchmark.render is None:
        raise ValueError(f"{benchmark.name} needs --root, the folder with {', '.join(benchmark.files)}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vzoom" / benchmark.name
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _judge(benchmark: Benchmark, none: bool) -> tuple[Judge | None, str | None]:
    """The judge and the name of its model. ValueError where one is needed and the environment names none."""
    if none or not benchmark.needs_judge:
        return None, None
    from vzoom.eval.judge import HTTPJudge

    judge = HTTPJudge.from_environment()
    return judge, " ".join(endpoint.model for endpoint in judge.chat.endpoints)


def _list(as_json: bool) -> int:
    from vzoom.eval.benchmarks import BENCHMARKS

    if as_json:
        print_json({"benchmarks": [_described(benchmark) for benchmark in BENCHMARKS.values()]})
        return 0
    width = max(map(len, BENCHMARKS))
    for name, benchmark in BENCHMARKS.items():
        extras = [*(["subtitles"] if benchmark.has_subtitles else []), *(["judge"] if benchmark.needs_judge else [])]
        shown = f" ({', '.join(extras)})" if extras else ""
        print(f"{name:{width}}  {benchmark.title}{shown}: {', '.join(benchmark.files) or 'rendered, no download'}")
    return 0


def _described(benchmark: Benchmark) -> dict[str, Any]:
    plain = ("name", "title", "hub_id", "revision", "source", "scorer", "has_subtitles", "needs_judge")
    return {
        **{name: getattr(benchmark, name) for name in plain},
        "files": list(benchmark.files),
        "paper": dict(benchmark.paper),
        "rendered": benchmark.render is not None,
    }


def _print(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(figures)
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}}  {printable(str(value))}")


class _Progress:
    """`32/400, 1.2 s each, 8 min left` on stderr: in place on a terminal, every tenth of the way elsewhere."""

    def __init__(self, shard: Shard) -> None:
        self.name = f"shard {shard}: " if shard.count > 1 else ""
        self.tenth = -1

    def __call__(self, done: Done) -> None:
        each = done.seconds / max(1, done.fresh)
        line = f"{self.name}{done.done}/{done.total}, {each:.1f} s each, {_duration(done.seconds_left)} left"
        if sys.stderr.isatty():
            end = "\n" if done.done == done.total else ""
            print(f"\r{line}\x1b[K", end=end, file=sys.stderr, flush=True)
        elif done.done * 10 // done.total != self.tenth:
            print(line, file=sys.stderr, flush=True)
        self.tenth = done.done * 10 // done.total


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
