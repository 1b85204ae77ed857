"""`vzoom distill`: an expert answers questions by zooming; its conversations with a right answer are kept."""

from __future__ import annotations

import argparse

from ..exit_codes import ExitCode
from ..expert import ENVIRONMENT, ExpertSession, add_expert_options, expert_settings, kept_settings, read_questions
from ..loading import model_path
from ..options import add_model, add_video_options, video_options
from ..progress import CountLine

_EXAMPLES = """examples:
  vzoom distill --questions questions --out exemplars --model Qwen/Qwen2.5-VL-7B-Instruct --attempts 2
  vzoom distill --questions questions --out exemplars --model ./base --limit 20 --max-cost 1
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "distill",
        help="have an expert answer questions by zooming; keep its right conversations",
        description="Have an expert answer questions by zooming, as a model of vzoom does.\n"
        "Its conversations with a right answer are kept, to train on.",
        epilog=f"{ENVIRONMENT}\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(parser, "the model that is to learn (only its tokenizer and frame sizes are read)")
    add_expert_options(parser)
    add_video_options(parser)
    parser.set_defaults(run=run, resumes=True)


def run(args: argparse.Namespace) -> ExitCode:
    """Run the command."""
    from vzoom.data import EpisodeFactory, distill, same_settings
    from vzoom.models import load_patch_spec, load_vocabulary
    from vzoom.video import ClipCache

    model = model_path(args.model)
    questions = read_questions(args)
    settings = expert_settings(args)
    with ExpertSession(args.out, settings) as session:
        clips = ClipCache(options=video_options(args))
        factory = EpisodeFactory(load_vocabulary(model), load_patch_spec(model), clips)
        same_settings(args.out, {"command": "distill", "model": args.model, **kept_settings(settings)})
        found = distill(
            questions,
            args.out,
            factory=factory,
            expert=session.expert,
            verify=session.verifier(questions),
            attempts=settings.attempts,
            concurrency=settings.concurrency,
            say=CountLine(every=args.progress),
            costs=session.costs,
        )
        return session.finish(found)
