"""`vzoom demo`: render a video, ask about it, and say whether the answer is right."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..console import Style, note, print_json
from ..exit_codes import ExitCode
from ..loading import EMBEDDED_NOTE, load_zoomer
from ..options import add_model_options, add_out, share
from .ask import summary

_DEMO_SEED = 4  # a video in which the embedded model looks once in vain, and then again

_EXAMPLES = """examples:
  vzoom demo
  vzoom demo --seed 7 --out demo
  vzoom demo --json | jq .correct
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="render a video with something brief in it, and find it",
        description="Render a video in which a shape flashes for half a second, ask which one, and write a report.\n"
        "Exit code 1 if the answer is wrong.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    share(parser, "--json")
    out = Path("vzoom-demo")
    add_out(parser, f"a folder for the video, what happens in it, and the report (default: {out})", default=out)
    share(parser, "--report", help="write the report here (default: report.html in the folder of --out)")
    share(parser, "--seed", default=_DEMO_SEED)
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Run the command."""
    from vzoom.synthetic import ask_questions, config_for, make_video, score

    from ..live import Live
    from .synthetic import write_video

    args.out.mkdir(parents=True, exist_ok=True)
    made = make_video(args.seed, config_for("which"))
    question = ask_questions(made, "which", args.seed)
    path = args.out / f"synthetic-{args.seed}.mp4"
    write_video(made, path, seed=args.seed)

    zoomer = load_zoomer(args, warn=False)
    live = Live(sys.stdout)
    if not args.json:
        print(f"{path}: {made.config.duration_seconds:g} s\n{question.text}\n", flush=True)
    result = zoomer.ask(path, question.text, on_event=None if args.json else live)
    report = result.report.save(args.report or args.out / "report.html")

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
    return ExitCode.OK if correct else ExitCode.FAILED
