"""`vzoom reflect`: a model answers questions, and an expert corrects the zooms of its wrong conversations."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...data import RolloutSettings
from ..exit_codes import ExitCode
from ..expert import ENVIRONMENT, ExpertSession, add_expert_options, expert_settings, kept_settings, read_questions
from ..loading import load_zoomer, model_path
from ..options import add_model_options, add_settings, given, share
from ..progress import CountLine

_EXAMPLES = """examples:
  vzoom reflect --questions questions --model ./sft --out reflections --rollouts 2
  vzoom data mix exemplars/kept reflections/kept --ratio 0.25 --out sft-data
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "reflect",
        help="have an expert correct the zooms of a model's wrong conversations",
        description="Let a model answer questions. If it zoomed and was wrong, an expert corrects the zoom and\n"
        "answers; these conversations are kept, to train on.",
        epilog=f"{ENVIRONMENT}\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_expert_options(parser)
    add_model_options(parser, "the model whose conversations are corrected", default=None, required=True)
    group = parser.add_argument_group("conversations of the model")
    add_settings(group, RolloutSettings, ("rollouts", "temperature"))
    share(group, "--max-sessions", default=RolloutSettings.max_sessions)
    share(group, "--seed", default=RolloutSettings.seed)
    parser.set_defaults(run=run, resumes=True)


def run(args: argparse.Namespace) -> ExitCode:
    """Run the command."""
    from vzoom.data import EpisodeFactory, ReplyCache, reflect, roll_out, same_settings
    from vzoom.models import vocabulary_of

    questions = read_questions(args)
    settings, own = expert_settings(args), RolloutSettings(**given(args, RolloutSettings))
    kept = {
        "command": "reflect",
        "model": args.model,
        "weights": _stamps(Path(model_path(args.model))),
        **({"adapter": args.adapter, "adapter_weights": _stamps(Path(args.adapter))} if args.adapter else {}),
        **kept_settings(settings),
        # By the names that folders of earlier runs hold.
        "student_temperature": own.temperature,
        "rollouts": own.rollouts,
        "batch": own.max_sessions,
        "seed": own.seed,
    }
    say = CountLine(every=args.progress)
    with ExpertSession(args.out, settings) as session:
        same_settings(args.out, kept)
        zoomer = load_zoomer(args, warn=False)
        cache = ReplyCache(args.out / "rollouts.jsonl")
        try:
            rollouts = roll_out(
                zoomer,
                questions,
                cache,
                num_rollouts=own.rollouts,
                temperature=own.temperature,
                seed=own.seed,
                max_sessions=own.max_sessions,
                say=say,
            )
        finally:
            cache.close()
        checkpoint = zoomer.info
        found = reflect(
            questions,
            rollouts,
            args.out,
            factory=EpisodeFactory(vocabulary_of(checkpoint), checkpoint.patch_spec, zoomer.clip_cache),
            expert=session.expert,
            verify=session.verifier(questions),
            attempts=settings.attempts,
            concurrency=settings.concurrency,
            say=say,
            costs=session.costs,
        )
        return session.finish(found)


def _stamps(folder: Path) -> list[list[object]]:
    """Name, size and time of the weights: the rollouts of a model that was trained further are another model's."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
