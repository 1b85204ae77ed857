"""`vzoom ask`: one question about one video."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...config import Sampling
from ..console import note, print_json
from ..exit_codes import ExitCode
from ..loading import load_zoomer, video_of
from ..options import add_limits, add_model_options, add_settings, add_video, given, share, video_options

if TYPE_CHECKING:
    from vzoom.video import VideoInput
    from vzoom.zoomer import Result, Zoomer

_EXAMPLES = """examples:
  vzoom ask match.mp4 "Who scored first?" --model zsgvivo/videozoomer
  vzoom ask match.mp4 "Who scored first?" --model ./checkpoint --max-zooms 2 --report match.html
  vzoom ask match.mp4 "Who scored first?" --model Qwen/Qwen2.5-VL-7B-Instruct --json > match.json
  curl -s https://example.org/match.mp4 | vzoom ask - "Who scored first?" --model ./checkpoint --glance keyframe
  vzoom ask ./frames --frame-rate 2 "What is built here?" --model ./checkpoint
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "ask",
        help="ask a question about a video",
        description="Ask a question about a video. The model glances at all of it, zooms in where it wants to, "
        "and answers.\nExit code 4 if the conversation ended without an answer.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_video(parser, "video")
    parser.add_argument("question", metavar="QUESTION", help="what you want to know")
    share(parser, "--json", "--report")
    add_model_options(parser)
    add_limits(parser)
    group = parser.add_argument_group(
        "sampling (the defaults are the checkpoint's own, from its generation_config.json)"
    )
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    add_settings(group, Sampling, names, show_defaults=False)
    share(group, "--seed")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Run the command."""
    from vzoom.video import open_video

    Sampling(**given(args, Sampling))  # what is out of range shows before a model is loaded
    if not args.question.strip():
        raise ValueError('the question is empty: vzoom ask VIDEO "What happens?"')
    video = video_of(args.video, args.frame_rate)
    with open_video(video, video_options(args), backend="pyav") as opened:  # no video? that shows before a model loads
        zoomer = load_zoomer(args)
        backend, device = zoomer.clip_cache.options.backend, zoomer.device
        decodes_here = backend == "pyav" or (backend == "auto" and device.type == "cpu")
        return _ask(args, zoomer, opened if decodes_here else video)


def _ask(args: argparse.Namespace, zoomer: Zoomer, video: VideoInput) -> ExitCode:
    sampling = replace(zoomer.info.sampling, **given(args, Sampling))
    if args.json:
        result = zoomer.ask(video, args.question, sampling=sampling)
    else:
        from ..live import Live

        live = Live(sys.stdout, glance=zoomer.config.glance)
        result = zoomer.ask(video, args.question, sampling=sampling, on_event=live)
        live.result(result)
    for said in result.trajectory.video.notes:
        note(said)
    if args.report:
        result.report.save(args.report)
        if not args.json:
            note(f"report: {args.report}")
    if args.json:
        caches = {name: stats.to_json() for name, stats in zoomer.cache_stats().items()}
        print_json(summary(result, report=args.report, caches=caches))
    return ExitCode.UNANSWERED if result.answer is None else ExitCode.OK


def summary(result: Result, *, report: object = None, **more: Any) -> dict[str, Any]:
    """The object of `--json`: the trajectory's own, the model, wall time, and where the report is."""
    return {
        **result.trajectory.to_json(),
        "model": result.model,
        "warnings": list(result.warnings),
        "seconds": round(result.seconds, 3),
        "report": None if report is None else str(report),
        **more,
    }
