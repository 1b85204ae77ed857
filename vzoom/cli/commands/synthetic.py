"""`vzoom world render` and `vzoom world eval`: procedural videos with exact ground truth."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import print_json, printable
from ..options import add_model_options, load_zoomer, video_path

if TYPE_CHECKING:
    from vzoom.synthetic import SyntheticConfig, SyntheticVideo
    from vzoom.types import Event

# Not asked of vzoom.world, which needs numpy: `vzoom --help` is quick. A test holds the two equal.
FAMILIES = ("which", "first", "count", "order")

_RENDER_EXAMPLES = """examples:
  vzoom world render --out world.mp4
  vzoom world render --out long.mp4 --seed 3 --seconds 600 --scenes 8
"""
_EVAL_EXAMPLES = """examples:
  vzoom world eval --family which --questions 200 --seed 1 --json
  vzoom world eval --family count --questions 50 --max-zooms 0 --model ./checkpoint
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("world", help="rendered videos with exact ground truth", description=__doc__)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    render = actions.add_parser(
        "render",
        help="render one video and write what happens in it",
        description="Render one video; its ground truth and questions go into a JSON file beside it.",
        epilog=_RENDER_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    render.add_argument("--out", type=video_path, required=True, metavar="FILE", help="the MP4 file to write")
    render.add_argument("--json", action="store_true", help="print the ground truth as one JSON object")
    _add_world_options(render)
    render.set_defaults(run=run_render)

    evaluate = actions.add_parser(
        "eval",
        help="ask a model many fresh questions",
        description="Render fresh videos, ask a question about each, and score answers and zooms. "
        "hit_rate is the share of questions for which a zoom brought the frames that prove the answer.",
        epilog=_EVAL_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    evaluate.add_argument("--questions", type=int, default=50, metavar="N", help="how many (default: 50)")
    evaluate.add_argument("--max-zooms", type=int, metavar="K", help="zooms allowed a question (default: the model's)")
    evaluate.add_argument("--batch", type=int, default=8, metavar="B", help="conversations at once (default: 8)")
    evaluate.add_argument("--cache", type=Path, metavar="DIR", help="keep rendered videos there and find them again")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    _add_world_options(evaluate)
    add_model_options(evaluate)
    evaluate.set_defaults(run=run_eval)


def _add_world_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("world")
    group.add_argument("--family", choices=FAMILIES, default="which", help="kind of question (default: which)")
    group.add_argument("--seed", type=int, default=0, metavar="S", help="draws everything (default: 0)")
    group.add_argument("--seconds", type=float, metavar="X", help="length of a video, 32 to 3600")
    group.add_argument("--scenes", type=int, metavar="N", help="scenes of a video, 2 to 8")
    group.add_argument("--event-seconds", type=float, metavar="X", help="how long a shape is seen, at most 0.5")
    group.add_argument("--distractors", type=int, metavar="N", help="wrong options that the video does show, 0 to 3")


def world_config(args: argparse.Namespace) -> SyntheticConfig:
    """The family's default world with what the options change. ValueError where they do not fit together."""
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


def run_render(args: argparse.Namespace) -> int:
    from vzoom.synthetic import make_video

    truth_path, truth = write_video(make_video(args.seed, world_config(args)), args.out, seed=args.seed)
    if args.json:
        print_json(truth)
    else:
        seconds = truth["config"]["duration_seconds"]
        print(f"{args.out}: {seconds:g} s, {len(truth['scenes'])} scenes\n{truth_path}: what happens in it")
    return 0


def write_video(world_video: SyntheticVideo, path: Path, *, seed: int) -> tuple[Path, dict[str, Any]]:
    """Render to `path` and write the ground truth beside it; its path and content."""
    from vzoom.synthetic import ask_questions, render

    questions = []
    for family in FAMILIES:
        try:
            questions.append(asdict(ask_questions(world_video, family, seed)))
        except ValueError:  # a world that is made for one family may hold no question of another
            continue
    truth = {"video": str(path), "seed": seed, **asdict(world_video), "questions": questions}
    render(world_video, path)
    truth_path = path.with_suffix(".json")
    truth_path.write_text(json.dumps(truth, indent=1) + "\n")
    return truth_path, truth


def run_eval(args: argparse.Namespace) -> int:
    from vzoom.synthetic import evaluate_synthetic

    config = world_config(args)
    zoomer = load_zoomer(args, warn=False)
    progress = _Progress(args.questions)
    figures = evaluate_synthetic(
        zoomer,
        args.family,
        args.questions,
        args.seed,
        max_zooms=args.max_zooms,
        config=config,
        cache_dir=args.cache,
        max_sessions=args.batch,
        on_event=progress,
    )
    progress.end()
    figures = {"model": zoomer.name, **figures, "correct": round(figures["accuracy"] * figures["n"])}
    if args.json:
        print_json(figures)
    else:
        width = max(map(len, figures))
        for name, value in figures.items():
            print(f"{name:{width}}  {printable(str(value))}")
    return 0


class _Progress:
    """`12/200` on stderr: in place on a terminal, a line every tenth of the way elsewhere."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0

    def __call__(self, event: Event) -> None:
        from vzoom.types import Finished

        if isinstance(event, Finished):
            self.done += 1
            if sys.stderr.isatty():
                print(f"\r{self.done}/{self.total}", end="", file=sys.stderr, flush=True)
            elif self.done % max(1, self.total // 10) == 0:
                print(f"{self.done}/{self.total}", file=sys.stderr, flush=True)

    def end(self) -> None:
        if sys.stderr.isatty():
            print(file=sys.stderr)
