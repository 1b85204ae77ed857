"""A small RL run as a process of its own, for tests that kill it or start two: python grpo_run.py WORLD OUT."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import training

from vzoom.interrupts import run_until_signal
from vzoom.train.recipes.recipe import GRPORecipe, Optimisation, Recipe
from vzoom.train.rl.collapse import CollapseLimits
from vzoom.train.rl.grpo import run_grpo
from vzoom.zoomer import embedded_path

ZOOM = replace(training.ZOOM, max_new_tokens=40, max_zooms=2)
# Hot, so that a question's rollouts differ; what it does to the format is no collapse here.
PART = GRPORecipe(
    Optimisation(3e-4),
    steps=4,
    questions_per_step=2,
    num_rollouts=4,
    updates_per_step=2,
    micro_batch_size=2,
    temperature=1.5,
    kl_weight=0.01,
    gradient_checkpointing=False,
    max_logprob_mismatch=1e-3,
    eval_questions=2,
    eval_every=2,
    save_every=1,
    collapse=CollapseLimits(min_zoom_rate=0.0, min_format_rate=0.0, max_cut_rate=1.0),
)
RECIPE = Recipe("small", "", ZOOM, grpo=PART)


def main(world: str, out: str) -> None:
    run_grpo(
        RECIPE,
        base=embedded_path(),
        questions=Path(world) / "training" / "questions",
        eval_questions=Path(world) / "public" / "questions",
        out=out,
        say=lambda line: print(line, flush=True),
    )


if __name__ == "__main__":
    sys.exit(
        run_until_signal(lambda: main(*sys.argv[1:]) or 0, line=lambda by: f"stopped by {by}", is_program=True)  # type: ignore[func-returns-value]
    )
