"""`vzoom synthetic render` and `vzoom synthetic eval`: rendered videos with exact ground truth."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...eval import RunConfig
from ...synthetic import FAMILIES
from ..console import print_json, printable
from ..exit_codes import ExitCode
from ..loading import load_zoomer
from ..options import (
    add_limits,
    add_model_options,
    add_out,
    share,
    video_path,
)
from ..progress import CountLine

if TYPE_CHECKING:
    from vzoom.synthetic import SyntheticConfig, SyntheticVideo
    from vzoom.types import Event

_NUM_QUESTIONS = 50  # that eval asks unless --limit says otherwise

_RENDER_EXAMPLES = """examples:
  vzoom synthetic render --out video.mp4
  vzoom synthetic render --out long.mp4 --seed 3 --seconds 600 --scenes 8
"""
_EVAL_EXAMPLES = """examples:
  vzoom synthetic eval --family which --limit 200 --seed 1 --json
  vzoom synthetic eval --family count --limit 50 --max-zooms 0 --model ./checkpoint
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "synthetic",
        help="render videos with exact ground truth, and ask a model about them",
        description="Rendered videos of which everything is known: render one, or ask a model about many.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    render = actions.add_parser(
        "render",
        help="render one video and write down what happens in it",
        description="Render one video; what happens in it, and questions about it, go into a JSON file beside it.",
        epilog=_RENDER_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_out(render, "an MP4 file", type=video_path, required=True, metavar="FILE")
    share(render, "--json")
    _add_video_options(render)
    render.set_defaults(run=run_render)

    evaluate = actions.add_parser(
        "eval",
        help="ask a model many fresh questions",
        description="Render fresh videos, ask a question about each, and score answers and zooms.\n"
        "hit_rate is the share of questions for which a zoom brought the frames that prove the answer.",
        epilog=_EVAL_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    share(evaluate, "--limit", default=_NUM_QUESTIONS)
    share(evaluate, "--max-sessions", default=RunConfig.max_sessions)
    share(evaluate, "--cache", "--json")
    _add_video_options(evaluate)
    add_limits(evaluate)
    add_model_options(evaluate)
    evaluate.set_defaults(run=run_eval)


def _add_video_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("videos (the defaults are those of the family)")
    group.add_argument(
        "--family", choices=FAMILIES, default=FAMILIES[0], help="kind of question (default: %(default)s)"
    )
    share(group, "--seed")
    group.add_argument("--seconds", type=float, metavar="X", help="length of a video, 32 to 3600")
    group.add_argument("--scenes", type=int, metavar="N", help="scenes of a video, 2 to 8")
    group.add_argument("--event-seconds", type=float, metavar="X", help="how long a shape is seen, at most 0.5")
    group.add_argument("--distractors", type=int, metavar="N", help="wrong options that the video does show, 0 to 3")


def video_config(args: argparse.Namespace) -> SyntheticConfig:
    """The family's default videos with what the options change. ValueError if they do not fit together."""
    from vzoom.synthetic import config_for

    config = config_for(args.family)
    changes: dict[str, Any] = {
        "event_seconds": args.event_seconds,
        "distractors": args.distractors,
        "duration_seconds": args.seconds,
        "num_scenes": None if args.scenes is None else (args.scenes, args.scenes),
    }
    if args.seconds is not None or args.scenes is not None:
        # Scenes that are as uneven as the default ones, for another length or number.
        seconds = config.duration_seconds if args.seconds is None else args.seconds
        fewest, most = changes["num_scenes"] or config.num_scenes
        step = config.scene_step_seconds
        shortest = max(step, floor(0.8 * seconds / max(1, most) / step) * step)
        changes["scene_seconds"] = (shortest, ceil(1.2 * seconds / max(1, fewest) / step) * step)
    return replace(config, **{name: value for name, value in changes.items() if value is not None})


def run_render(args: argparse.Namespace) -> ExitCode:
    """Run `synthetic render`."""
    from vzoom.synthetic import make_video

    truth_path, truth = write_video(make_video(args.seed, video_config(args)), args.out, seed=args.seed)
    if args.json:
        print_json(truth)
    else:
        seconds = truth["config"]["duration_seconds"]
        print(f"{args.out}: {seconds:g} s, {len(truth['scenes'])} scenes\n{truth_path}: what happens in it")
    return ExitCode.OK


def write_video(made: SyntheticVideo, path: Path, *, seed: int) -> tuple[Path, dict[str, Any]]:
    """Render to `path` and write the ground truth beside it; its path and content."""
    from vzoom.data import write_json
    from vzoom.synthetic import ask_questions, render

    questions = []
    for family in FAMILIES:
        try:
            questions.append(asdict(ask_questions(made, family, seed)))
        except ValueError:  # a video that is made for one family may hold no question of another
            continue
    truth = {"video": str(path), "seed": seed, **asdict(made), "questions": questions}
    render(made, path)
    truth_path = path.with_suffix(".json")
    write_json(truth_path, truth)
    return truth_path, truth


def run_eval(args: argparse.Namespace) -> ExitCode:
    """Run `synthetic eval`."""
    from vzoom.synthetic import evaluate_synthetic
    from vzoom.types import Finished

    if args.limit < 1:
        raise ValueError(f"--limit must be 1 or more, got {args.limit}")
    config = video_config(args)
    zoomer = load_zoomer(args, warn=False)
    line, done = CountLine(), 0

    def count(event: Event) -> None:
        nonlocal done
        if isinstance(event, Finished):
            done += 1
            line(done, args.limit)

    figures = evaluate_synthetic(
        zoomer,
        args.family,
        args.limit,
        args.seed,
        config=config,
        cache_dir=args.cache,
        max_sessions=args.max_sessions,
        on_event=count,
    )
    figures = {"model": zoomer.name, **figures, "correct": round(figures["accuracy"] * figures["n"])}
    if args.json:
        print_json(figures)
    else:
        width = max(map(len, figures))
        for name, value in figures.items():
            print(f"{name:{width}}  {printable(str(value))}")
    return ExitCode.OK
