"""The whole school in one command: base → questions → exemplars → SFT → reflections → SFT → GRPO → examination.

Every stage is made once and remembered (`run.Run`); the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...eval import interval
from ..recipes.recipe import Recipe
from .run import Run
from .stages import School

EXAMINATION_SEED = 7


def run_school(
    recipe: Recipe,
    out: Path,
    *,
    questions: Path | None = None,
    held_out: Path | None = None,
    launch: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a model by `recipe` in the folder `out`; out/grpo is the finished one. Returns its examination.

    questions, held_out: folders of records without turns, for a recipe that renders none of its own. launch: the words
    in front of `-m vzoom.train …` that the two trainings are started by, as `accelerate launch --config_file …`;
    none trains in this process. ValueError for what does not fit together, and where a stage was made otherwise.
    """
    if (recipe.world is None) != (questions is not None):
        raise ValueError(
            f"recipe {recipe.name} renders its own questions: name none"
            if questions
            else f"recipe {recipe.name} needs a folder of questions (`vzoom data import`): name one"
        )
    with Run(out, say=say) as run:
        school = School(run, recipe, launch=tuple(launch))
        base = school.base()
        if questions is None:
            questions, held_out = school.questions(), school.held_out()
            asked = school.rl_questions(questions)
        else:
            asked = questions
        exemplars = school.exemplars(questions, model=base)
        student = school.sft("sft-exemplars", base=base, data=exemplars, held_out=held_out)
        reflections = school.reflections(questions, student=student)
        data = school.mixed(exemplars, reflections)
        sft = school.sft("sft", base=base, data=data, held_out=held_out)
        model = school.grpo("grpo", base=sft, questions=asked, held_out=held_out)
        figures = _examined(school, {"sft": sft, "grpo": model}, held_out)
        (out / "school.json").write_text(json.dumps(figures, indent=1) + "\n")
        say(f"{model}: the finished model. CPU hours: {run.cpu_seconds / 3600:.2f}")
        return figures


def _examined(school: School, models: dict[str, Path], held_out: Path | None) -> dict[str, Any]:
    """Accuracy by model and family of questions, with its interval."""
    figures: dict[str, Any] = {}
    for name, model in models.items():
        scores = school.examine(f"examine-{name}", model, seed=EXAMINATION_SEED, held_out=held_out)
        figures[name] = {}
        for family, some in scores.items():
            found = interval([[s["accuracy"] for s in some]])
            figures[name][family] = {
                "n": len(some),
                "accuracy": round(found.mean, 4),
                "interval": [round(found.low, 4), round(found.high, 4)],
                "zooms": round(sum(s["mean_zooms"] for s in some) / len(some), 3),
                "frames": round(sum(s["mean_frames"] for s in some) / len(some), 2),
            }
            school.run.say(f"  {name}, {family}: accuracy {found} over {len(some)} questions")
    return figures
