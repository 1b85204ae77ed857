"""`vzoom train`: all stages of a training, or one of them. The same as `python -m vzoom.train`."""

from __future__ import annotations

import argparse

from vzoom.train import DESCRIPTION, EPILOG, add_stages, run_stage


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "train",
        help="train a model: distil, SFT, reflect, SFT, GRPO, evaluate",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_stages(parser)
    parser.set_defaults(run=run_stage, resumes=True)
