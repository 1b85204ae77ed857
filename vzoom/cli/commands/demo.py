"""`vzoom demo`: render a video, ask about it, and say whether the answer is right."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..console import Style, note, print_json
from ..options import EMBEDDED_NOTE, add_model_options, load_zoomer, report_path
from .ask import summary

_WRONG = 1
_DEMO_SEED = 4  # a video in which the embedded model looks once in vain, and then again

_EXAMPLES = """examples:
  vzoom demo
  vzoom demo --seed 7 --keep /tmp/demo
  vzoom demo --json | jq .correct
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "demo",
        help="render a video with something brief in it, and find it",
        description="Render a video in which a shape flashes for half a second, ask which one, and write a report. "
        "Exit code 1 where the answer is wrong.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path("vzoom-demo"),
        metavar="DIR",
        help="folder for the video, its ground truth and the report (default: ./vzoom-demo)",
    )
    parser.add_argument(
        "--report", type=report_path, metavar="FILE", help="where the report goes (default: DIR/report.html)"
    )
    parser.add_argument(
        "--seed", type=int, default=_DEMO_SEED, metavar="S", help=f"which video (default: {_DEMO_SEED})"
    )
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vzoom.synthetic import ask_questions, config_for, make_video, score

    from ..live import Live
    from .synthetic import write_video

    args.keep.mkdir(parents=True, exist_ok=True)
    world_video = make_video(args.seed, config_for("which"))
    question = ask_questions(world_video, "which", args.seed)
    path = args.keep / f"world-{args.seed}.mp4"
    write_video(world_video, path, seed=args.seed)

    zoomer = load_zoomer(args, warn=False)
    live = Live(sys.stdout)
    if not args.json:
        print(f"{path}: {world_video.config.duration_seconds:g} s\n{question.text}\n", flush=True)
    result = zoomer.ask(path, question.text, on_event=None if args.json else live)
    report = result.report.save(args.report or args.keep / "report.html")

    scores = score(result, question)
    correct = bool(scores["accuracy"])
    if args.json:
        more = {"correct": correct, "hit": bool(scores["hit_rate"]), "right_answer": question.answer_letter}
        print_json(summary(result, report=report, **more))
    else:
        live.result(result)
        style = Style(sys.stdout)
        shown = ", ".join(f"{start:.2f}–{end:.2f} s" for start, end in question.evidence)
        verdict = style("right", "green") if correct else f"{style('wrong', 'red')}: it is {question.answer_letter}"
        print(f"{verdict} (it flashes at {shown})\nreport: {report}")
        if zoomer.is_embedded:
            note(EMBEDDED_NOTE.replace("--model", "vzoom ask --model", 1))
    return 0 if correct else _WRONG
