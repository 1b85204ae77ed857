"""`python -m vzoom.train base|sft|grpo RECIPE --out DIR`: one stage of a school, on its own.

By itself it is one process; `accelerate launch --config_file CONFIG -m vzoom.train …` (see `accelerate_configs/`) is
many.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from .recipes import RECIPES, recipe_named
from .recipes.recipe import Recipe, scaled


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        recipe = replace(recipe_named(args.recipe), seed=args.seed)
        if args.scale is not None:
            recipe = scaled(recipe, args.scale)
        args.run(recipe, args)
    except (ValueError, ImportError, OSError) as problem:
        print(f"vzoom.train: {problem}", file=sys.stderr)
        return 2
    return 0


_say = partial(print, flush=True)


def _base(recipe: Recipe, args: argparse.Namespace) -> None:
    from .pretrain.pretrain import pretrain

    if recipe.world is None:
        raise ValueError(f"recipe {recipe.name} begins with {recipe.base}, which exists: there is nothing to pretrain")
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    pretrain(recipe.world.curriculum, args.out, say=_say)


def _sft(recipe: Recipe, args: argparse.Namespace) -> None:
    from .sft.sft import run_sft

    run_sft(
        recipe,
        base=_base_of(recipe, args),
        data=args.data,
        out=args.out,
        resume=args.resume,
        eval_questions=args.eval_questions,
        say=_say,
    )


def _grpo(recipe: Recipe, args: argparse.Namespace) -> None:
    from .rl.grpo import run_grpo

    run_grpo(
        recipe,
        base=_base_of(recipe, args),
        questions=args.questions,
        out=args.out,
        resume=args.resume,
        eval_questions=args.eval_questions,
        say=_say,
    )


def _base_of(recipe: Recipe, args: argparse.Namespace) -> str:
    base: str = args.base or recipe.base
    if not base:
        raise ValueError(f"recipe {recipe.name} makes its own base (`python -m vzoom.train base`): name it with --base")
    return base


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vzoom.train", description="Train a model that zooms.")
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("recipe", choices=sorted(RECIPES))
    shared.add_argument("--out", type=Path, required=True, help="folder of the run; the same one goes on")
    shared.add_argument("--seed", type=int, default=0)
    shared.add_argument("--scale", type=float, help="do so much less of everything: 0.01 is a rehearsal")
    trained = argparse.ArgumentParser(add_help=False, parents=[shared])
    trained.add_argument("--base", help="checkpoint to begin with: a folder or a hub id; default: the recipe's")
    trained.add_argument("--eval-questions", type=Path, help="held out, to choose the best checkpoint by")
    trained.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="auto: go on from what --out holds",
    )

    base = commands.add_parser("base", parents=[shared], help="pretrain the small model of a recipe for the world")
    base.add_argument("--threads", type=int, default=1, help="torch threads (1 is the fastest on a busy machine)")
    base.set_defaults(run=_base)
    sft = commands.add_parser("sft", parents=[trained], help="supervised, on conversations")
    sft.add_argument("--data", type=Path, nargs="+", required=True, help="folders of records with turns")
    sft.set_defaults(run=_sft)
    grpo = commands.add_parser("grpo", parents=[trained], help="reinforcement, on questions")
    grpo.add_argument("--questions", type=Path, required=True, help="folder of records")
    grpo.set_defaults(run=_grpo)
    return parser


if __name__ == "__main__":
    sys.exit(main())
