"""`python -m vzoom.train sft tiny --out DIR`: train a recipe and write a checkpoint that `vzoom.load` reads."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .recipe import RECIPES


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    import torch

    from .export import export
    from .sft import SFT

    torch.set_num_threads(args.threads)
    recipe = RECIPES[args.recipe]()
    try:
        if args.steps is not None:
            recipe = recipe.scaled(args.steps)
        run = SFT(recipe, args.out, say=lambda line: print(line, flush=True))
        if args.resume:
            run.resume()
    except ValueError as problem:
        print(f"vzoom.train: {problem}", file=sys.stderr)
        return 2
    finished = run.run(minutes=args.minutes)
    export(run.model, run.tokenizer, recipe.zoom, args.out)
    print(f"{'finished' if finished else 'stopped, --resume goes on'} at step {run.step}; checkpoint in {args.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vzoom.train", description="Train a model that zooms.")
    commands = parser.add_subparsers(dest="command", required=True)
    sft = commands.add_parser("sft", help="supervised: the world's scripted policy is the teacher")
    sft.add_argument("recipe", choices=sorted(RECIPES), help="tiny: the embedded model, one CPU core")
    sft.add_argument("--out", type=Path, required=True, help="folder for the checkpoint, trainer.pt and log.jsonl")
    sft.add_argument("--steps", type=int, help="shrink or stretch the recipe's stages to this many steps in all")
    sft.add_argument("--minutes", type=float, help="stop after so long; --resume goes on")
    sft.add_argument("--resume", action="store_true", help="go on from OUT/trainer.pt")
    sft.add_argument("--threads", type=int, default=1, help="torch threads (1 is the fastest on a busy machine)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
