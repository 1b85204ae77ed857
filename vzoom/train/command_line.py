"""The one front door of training: `vzoom train STAGE RECIPE` and `python -m vzoom.train STAGE RECIPE` are the same.

Loading this file and building the parser loads nothing heavy, so that `vzoom --help` is quick.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..interrupts import run_until_signal
from .launch import launcher, run_launched
from .recipes import RECIPES, recipe_named

if TYPE_CHECKING:
    from ..protocol import Protocol
    from .recipes.recipe import Recipe

DESCRIPTION = "Train a model that zooms: all stages by one command, or one of them."

_RECIPES = "recipes:\n" + "\n".join(f"  {name:<20} {summary}" for name, summary in RECIPES.items()) + "\n"
EPILOG = f"""{_RECIPES}
A command that was stopped resumes if it is given again with the same --out. See docs/training.md.

examples:
  vzoom train pipeline tiny --out results
  vzoom train sft qwen2.5-vl-3b-1gpu --data exemplars --eval-questions held-out --out sft
  python -m vzoom.train grpo qwen2.5-vl-3b-1gpu --base sft --questions questions --out grpo
"""
_PIPELINE = f"""stages, each a folder in --out that is made once:
  base, questions, held-out        only for recipes that render their videos; rl-questions if RL has its own
  exemplars                        an expert answers questions (`vzoom distill`)
  sft-exemplars, reflections       a first student, and its wrong conversations corrected (`vzoom reflect`)
  mixed, sft                       supervised fine-tuning on both
  grpo                             reinforcement learning: the finished model
  eval-sft, eval-grpo              how well both do; all figures are in results.json
manifest.json says what each was made from, with hashes, seeds and versions. Stopped or killed, the same command
resumes. The expert comes from the environment, see `vzoom distill --help`; recipes that render bring their own.

{_RECIPES}
examples:
  vzoom train pipeline tiny --out results
  vzoom train pipeline tiny --out rehearsal --scale 0.01
  vzoom train pipeline qwen2.5-vl-7b --questions questions --eval-questions held-out --out results --launch fsdp2
"""
_PRETRAIN = f"""{_RECIPES}
examples:
  vzoom train pretrain tiny --out base
"""
_SFT = f"""{_RECIPES}
examples:
  vzoom train sft tiny --base base --data exemplars reflections --eval-questions held-out --out sft
  vzoom train sft qwen2.5-vl-7b --data exemplars --out sft --launch fsdp2
"""
_GRPO = f"""{_RECIPES}
examples:
  vzoom train grpo tiny --base sft --questions questions --eval-questions held-out --out grpo
  vzoom train grpo qwen2.5-vl-7b --base sft --questions questions --out grpo --launch fsdp2
"""
_LAUNCH_HELP = (
    "train in several processes: the name of an accelerate config of vzoom (fsdp2, zero3, single, cpu2), or a whole "
    'command such as "accelerate launch --config_file my.yaml"'
)


def _say(line: str) -> None:
    """A line of progress. Standard output has the result alone."""
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m vzoom.train`.

    Args:
        argv: the words after the program's name; None takes those of the process.

    Returns:
        The exit code: 0, 2 (wrong use), or 128 + the number of the signal that stopped it (130: Ctrl-C).
    """
    parser = argparse.ArgumentParser(
        prog="python -m vzoom.train",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_stages(parser)
    args = parser.parse_args(argv)

    def run() -> int:
        try:
            return run_stage(args)
        except (ValueError, ImportError, OSError) as problem:
            print(f"vzoom.train {args.stage}: {problem}", file=sys.stderr)
            return 2

    def stopped(by: str) -> str:
        return f"vzoom.train {args.stage}: stopped by {by}: run the same command again to resume"

    return run_until_signal(run, line=stopped, is_program=argv is None)


def add_stages(parser: argparse.ArgumentParser) -> None:
    """Give a parser the stages as commands; `run_stage` runs what it parsed."""
    stages = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("recipe", choices=sorted(RECIPES), metavar="RECIPE", help="what is trained, and how: see below")
    shared.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of results; resumes from it")
    shared.add_argument(
        "--protocol", metavar="PROTOCOL", help="hold conversations in this protocol, built in or a protocol.toml"
    )
    shared.add_argument("--seed", type=int, default=0, metavar="S", help="of data, training and rollouts (default: 0)")
    shared.add_argument("--scale", type=float, metavar="F", help="do so much less of everything: 0.01 is a rehearsal")

    launched = argparse.ArgumentParser(add_help=False)
    launched.add_argument("--launch", metavar="HOW", help=_LAUNCH_HELP)

    trained = argparse.ArgumentParser(add_help=False)
    trained.add_argument(
        "--base", metavar="MODEL", help="checkpoint to begin with: a folder or a hub id (default: the recipe's)"
    )
    trained.add_argument(
        "--eval-questions", type=Path, metavar="DIR", help="held-out records that choose the best checkpoint"
    )
    trained.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="auto (default): resume from what is in --out; never: begin again",
    )

    def add(name: str, summary: str, epilog: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return stages.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=epilog,
            parents=[shared, *parents],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    pipeline = add("pipeline", "all stages, from a base to a model that zooms", _PIPELINE, launched)
    pipeline.add_argument("--questions", type=Path, metavar="DIR", help="records to train on (`vzoom data import rl`)")
    pipeline.add_argument(
        "--eval-questions",
        type=Path,
        metavar="DIR",
        help="held-out records that choose the best checkpoint and evaluate the model",
    )
    pipeline.set_defaults(run_stage=_pipeline)

    pretrain = add("pretrain", "the small base of a recipe that renders its videos", _PRETRAIN)
    pretrain.add_argument("--threads", type=int, default=1, metavar="N", help="torch threads (default: 1)")
    pretrain.set_defaults(run_stage=_pretrain)

    sft = add("sft", "supervised fine-tuning on conversations", _SFT, trained, launched)
    sft.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR", help="folders of records with turns")
    sft.set_defaults(run_stage=_sft)

    grpo = add("grpo", "reinforcement learning on questions", _GRPO, trained, launched)
    grpo.add_argument("--questions", type=Path, required=True, metavar="DIR", help="folder of records to ask")
    grpo.set_defaults(run_stage=_grpo)


def run_stage(args: argparse.Namespace) -> int:
    """Run the stage that was parsed, and print the folder of the model that it made.

    Args:
        args: parsed by a parser of `add_stages`.

    Returns:
        The exit code 0.

    Raises:
        ValueError: options that do not fit together, or a stage that failed.
        ImportError: a package is not installed.
        OSError: a file cannot be read or written.
    """
    recipe = replace(recipe_named(args.recipe), seed=args.seed)
    if args.protocol is not None:
        from .recipes.recipe import in_protocol

        recipe = in_protocol(recipe, _protocol_of(recipe, args))
    if args.scale is not None:
        from .recipes.recipe import scaled

        recipe = scaled(recipe, args.scale)
    from transformers.utils import logging

    logging.disable_progress_bar()  # a stage loads several models; its own lines say how far it is
    model: Path = args.run_stage(recipe, args)
    if os.environ.get("RANK", "0") == "0":  # of several processes, one speaks
        print(model, flush=True)
    return 0


def _pipeline(recipe: Recipe, args: argparse.Namespace) -> Path:
    from .pipeline.pipeline import run_pipeline

    if args.launch and args.scale is not None:
        raise ValueError("--scale is for rehearsals in one process: leave --launch out")
    out: Path = args.out
    run_pipeline(
        recipe,
        out,
        questions=args.questions,
        eval_questions=args.eval_questions,
        launch=launcher(args.launch),
        say=_say,
    )
    return out / "grpo"


def _pretrain(recipe: Recipe, args: argparse.Namespace) -> Path:
    if recipe.synthetic is None:
        raise ValueError(f"recipe {recipe.name} begins with {recipe.base}: there is nothing to pretrain")
    if args.threads < 1:
        raise ValueError(f"--threads must be 1 or more, got {args.threads}")
    import torch

    from .pretrain.pretrain import pretrain

    torch.set_num_threads(args.threads)
    return pretrain(recipe.synthetic.curriculum, args.out, say=_say)


def _sft(recipe: Recipe, args: argparse.Namespace) -> Path:
    base = _base_of(recipe, args)
    if args.launch:
        return _launched(recipe, args, base, {"--data": args.data})
    from .packages import check_packages
    from .sft.sft import run_sft

    check_packages(recipe)
    return run_sft(
        recipe,
        base=base,
        data=args.data,
        out=args.out,
        resume=args.resume,
        eval_questions=args.eval_questions,
        say=_say,
    )


def _grpo(recipe: Recipe, args: argparse.Namespace) -> Path:
    base = _base_of(recipe, args)
    if args.launch:
        return _launched(recipe, args, base, {"--questions": args.questions})
    from .packages import check_packages
    from .rl.grpo import run_grpo

    check_packages(recipe)
    return run_grpo(
        recipe,
        base=base,
        questions=args.questions,
        out=args.out,
        resume=args.resume,
        eval_questions=args.eval_questions,
        say=_say,
    )


def _launched(recipe: Recipe, args: argparse.Namespace, base: str, data: dict[str, Path | list[Path]]) -> Path:
    """The same stage, in the processes that --launch starts."""
    from .packages import check_packages

    check_packages(recipe)
    options = {
        "--base": base,
        **data,
        "--eval-questions": args.eval_questions,
        "--out": args.out,
        "--resume": args.resume,
        "--protocol": args.protocol,
        "--seed": args.seed,
        "--scale": args.scale,
    }
    run_launched(launcher(args.launch), args.stage, recipe.name, options)
    out: Path = args.out
    return out


def _protocol_of(recipe: Recipe, args: argparse.Namespace) -> Protocol:
    """The protocol that --protocol names, with the system message of the base's chat template if it wants that."""
    from ..protocol import check_complete, load_protocol

    protocol = load_protocol(args.protocol)
    check_complete(protocol)
    if not protocol.turns.system_from_chat_template:
        return protocol
    from ..models import complete_protocol

    return complete_protocol(protocol, getattr(args, "base", None) or recipe.base)


def _base_of(recipe: Recipe, args: argparse.Namespace) -> str:
    base: str = args.base or recipe.base
    if not base:
        raise ValueError(f"recipe {recipe.name} pretrains its base (`vzoom train pretrain`): name it by --base")
    return base
