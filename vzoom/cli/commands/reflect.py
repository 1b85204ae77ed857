"""`vzoom reflect`: roll a student out, and have an expert correct the zooms of its wrong conversations."""

from __future__ import annotations

import argparse
from pathlib import Path

from .distill import ENVIRONMENT, Bench, Say, add_expert_options, expert_settings, read_questions

_EXAMPLES = """examples:
  vzoom reflect questions --student ./sft --out reflections --rollouts 2
  vzoom data mix exemplars/kept reflections/kept --ratio 0.25 --out sft-data
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "reflect",
        help="have an expert correct the zooms of a student's wrong conversations",
        description="Roll a student out; where it zoomed and was wrong, have an expert correct the zoom and play on.",
        epilog=f"{ENVIRONMENT}\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_expert_options(parser)
    group = parser.add_argument_group("student")
    group.add_argument("--student", required=True, dest="model", metavar="M", help="a folder, a hub id or embedded")
    group.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1")
    group.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    group.add_argument("--rollouts", type=int, default=1, metavar="N", help="a question (default: 1)")
    group.add_argument(
        "--student-temperature", type=float, default=1.0, metavar="T", help="of the rollouts (default: 1)"
    )
    group.add_argument("--batch", type=int, default=16, metavar="B", help="rollouts at once (default: 16)")
    group.add_argument("--seed", type=int, default=0, metavar="S", help="of the rollouts (default: 0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vzoom.data import EpisodeFactory, ReplyCache, reflect, roll_out, same_settings
    from vzoom.models import vocabulary_of

    from ..options import load_zoomer
    from .data import model_path

    questions = read_questions(args)
    names = ("student_temperature", "rollouts", "batch", "seed")
    settings = {
        "command": "reflect",
        "model": args.model,
        "weights": _stamps(Path(model_path(args.model))),
        **expert_settings(args),
        **{name: getattr(args, name) for name in names},
    }
    say = Say(args.progress)
    with Bench(args) as bench:
        same_settings(args.out, settings)
        zoomer = load_zoomer(args, warn=False)
        cache = ReplyCache(args.out / "rollouts.jsonl")
        try:
            rollouts = roll_out(
                zoomer,
                questions,
                cache,
                num_rollouts=args.rollouts,
                temperature=args.student_temperature,
                seed=args.seed,
                max_sessions=args.batch,
                say=say,
            )
        finally:
            cache.close()
        checkpoint = zoomer.checkpoint
        found = reflect(
            questions,
            rollouts,
            args.out,
            factory=EpisodeFactory(vocabulary_of(checkpoint), checkpoint.patch_spec, zoomer.clip_cache),
            expert=bench.expert,
            verify=bench.verifier(questions),
            attempts=args.attempts,
            concurrency=args.concurrency,
            say=say,
            costs=bench.costs,
        )
        return bench.finish(found)


def _stamps(folder: Path) -> list[list[object]]:
    """Name, size and time of the weights: rollouts of a student that was trained on since are another student's."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
