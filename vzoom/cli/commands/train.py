"""`vzoom school RECIPE`: the whole training in one command, from a base to a model that knows where to look."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from ..console import note

# Not asked of vzoom.train, which needs torch: `vzoom --help` is quick. A test holds the two equal.
RECIPES = ("ablation", "qwen2.5-vl-3b-1gpu", "qwen2.5-vl-7b", "tiny")

_EPILOG = """stages, each a folder of --out, made once:
  base, questions, held-out        recipes for the rendered world make theirs
  exemplars                        an expert plays (`vzoom distill`)
  sft-exemplars, reflections       a first student, and its wrong conversations corrected (`vzoom reflect`)
  mixed, sft                       supervised fine-tuning
  grpo                             reinforcement learning: the finished model
  examine-sft, examine-grpo        how well they do; all figures in school.json
manifest.json says what each was made from, with hashes, seeds and versions. Stopped or killed, the same command goes
on where it was. The expert comes from the environment, see `vzoom distill --help`; the rendered world brings its own.

examples:
  vzoom school tiny --out school
  vzoom school tiny --out rehearsal --scale 0.01
  vzoom school qwen2.5-vl-7b --questions questions --held-out held-out --out school \\
      --launch "accelerate launch --config_file vzoom/train/accelerate_configs/fsdp2.yaml"
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "school",
        help="train a model: distil, reflect, SFT, GRPO, evaluate",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", choices=RECIPES, help="what is trained, and how")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="what is there is gone on with")
    parser.add_argument("--questions", type=Path, metavar="DIR", help="records to train on (`vzoom data import rl`)")
    parser.add_argument("--held-out", type=Path, metavar="DIR", help="records that choose and examine the model")
    parser.add_argument("--launch", metavar="WORDS", help="how both trainings are started, as accelerate does")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of data, training and rollouts (default: 0)")
    parser.add_argument("--scale", type=float, metavar="F", help="do so much less of everything: 0.01 is a rehearsal")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vzoom.train import recipe_named, run_school, scaled, with_seed

    recipe = with_seed(recipe_named(args.recipe), args.seed)
    if args.scale is not None:
        if args.launch:
            raise ValueError("--scale is for rehearsals in one process: leave --launch out")
        recipe = scaled(recipe, args.scale)
    run_school(
        recipe,
        args.out,
        questions=args.questions,
        held_out=args.held_out,
        launch=shlex.split(args.launch or ""),
        say=note,
    )
    print(args.out / "grpo")
    return 0
