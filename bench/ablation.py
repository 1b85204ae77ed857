"""What each part of the training is worth: the ablation table of docs/results, by one resumable command.

    python bench/ablation.py --work DIR

Rows, each trained with every seed and evaluated on fresh questions:
  uniform          no zooms: as many uniform frames as `full` sees, SFT on right answers
  sft              SFT on exemplars and reflections, without RL
  no_reflection    SFT on exemplars alone, then RL
  no_cold_start    RL from the base
  no_tool_reward   SFT, then RL without the bonus for zooms
  full             SFT, then RL
DIR holds all that is made (base and data once, the rest by seed); stopped, the same command resumes. The figures go to
docs/results/ablation.json, the plots beside it, and `python bench/write_tables.py` writes the page.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import command

ROWS = ("uniform", "sft", "no_reflection", "no_cold_start", "no_tool_reward", "full")
OUT = Path(__file__).parents[1] / "docs" / "results" / "ablation.json"
MAX_ZOOMS = (0, 1, 2, 3, 4)
FAMILY = "which"
_EVAL_SEED = 20_000  # plus the training seed: every seed has fresh questions, the same for all of its rows


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    started = time.monotonic()
    recipe = _recipe(options.scale)
    _common(options.work, recipe)
    jobs = [(options.work, recipe, seed, options.questions) for seed in options.seeds]
    if options.workers == 1:
        found = [one_seed(*job) for job in jobs]
    else:
        with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
            found = list(pool.map(one_seed, *zip(*jobs, strict=True)))
    held = collect(found, options.seeds)
    held["uniform_ceiling"] = {
        frames: round(ceiling(recipe, int(frames), options.seeds, options.questions), 4) for frames in held["uniform"]
    }
    held |= {"cpu_hours": round(_cpu_hours(options.work, options.seeds), 2), "recipe": asdict(recipe)}
    held |= command.machine(threads=1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(held, indent=1) + "\n")
    print(f"{options.out}: {held['cpu_hours']} CPU hours in all, {(time.monotonic() - started) / 60:.0f} min here")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder of the runs, some 2 GB")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="S", help="default: 0 1 2")
    parser.add_argument("--questions", type=int, default=400, metavar="N", help="a row and seed (default: 400)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="seeds at once, a core each (default: 1)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="F", help="of all steps and data, for a rehearsal")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE", help="default: docs/results/ablation.json")
    return parser


def _recipe(scale: float) -> Any:
    from vzoom.train import recipe_named, scaled

    recipe = recipe_named("ablation")
    return recipe if scale == 1 else scaled(recipe, scale)


def _common(work: Path, recipe: Any) -> None:
    """What all seeds share: the base, the questions, the exemplars."""
    from vzoom.train.pipeline import stages
    from vzoom.train.pipeline.stage_store import StageStore

    with StageStore(work / "common", say=_say("common")) as store:
        context = stages.PipelineContext(store, recipe)
        stages.render_held_out(context)
        stages.distill_exemplars(context, stages.render_questions(context), model=stages.make_base(context))


def one_seed(work: Path, recipe: Any, seed: int, num_questions: int) -> dict[str, Any]:
    """All rows of one seed: row -> what its evaluations gave."""
    import torch

    from vzoom.train.pipeline import stages
    from vzoom.train.pipeline.final_eval import final_eval
    from vzoom.train.pipeline.stage_store import StageStore

    torch.set_num_threads(1)
    common = work / "common"
    base, exemplars, held_out = common / "base", common / "exemplars" / "kept", common / "held-out" / "questions"
    questions = common / "questions" / "questions"
    with StageStore(work / f"seed{seed}", say=_say(f"seed {seed}")) as store:
        context = stages.PipelineContext(store, replace(recipe, seed=seed), videos=common / "videos")
        reward = replace(recipe.grpo.reward, tool_bonus=0.0)
        without_bonus = replace(context.recipe, grpo=replace(recipe.grpo, reward=reward))

        plain = stages.train_sft(context, "sft-exemplars", base=base, data=exemplars, eval_questions=held_out)
        reflections = stages.collect_reflections(context, questions, student=plain)
        data = stages.mix_data(context, exemplars, reflections)
        sft = stages.train_sft(context, "sft", base=base, data=data, eval_questions=held_out)
        models = {"sft": sft}
        for row, begin, one in (
            ("full", sft, context),
            ("no_tool_reward", sft, replace(context, recipe=without_bonus)),
            ("no_reflection", plain, context),
            ("no_cold_start", base, context),
        ):
            models[row] = stages.train_grpo(one, row, base=begin, questions=questions, eval_questions=held_out)

        def asked(name: str, model: Path, max_zooms: int | None = None) -> list[dict[str, float]]:
            seed_of_questions = _EVAL_SEED + seed
            return final_eval(
                context, name, model, seed=seed_of_questions, num_questions=num_questions, max_zooms=max_zooms
            )[FAMILY]

        found = {row: asked(f"eval-{row}", model) for row, model in models.items()}
        zooms = {
            row: {str(k): asked(f"eval-{row}-{k}-zooms", models[row], k) for k in MAX_ZOOMS} for row in ("sft", "full")
        }
        # The same frames in all, spread evenly: of `full`'s mean, and at fixed budgets for the plot.
        mean_frames = round(sum(s["mean_frames"] for s in found["full"]) / len(found["full"]))
        glance = round(min(s["mean_frames"] for s in zooms["full"]["0"]))
        budgets = sorted({mean_frames, *((glance, 2 * mean_frames) if seed == 0 else ())})
        uniform = {}
        for budget in budgets:
            model = _uniform_model(context, base, exemplars, held_out, budget)
            uniform[str(budget)] = asked(f"eval-uniform-{budget}", model)
        return {
            "rows": {"uniform": uniform[str(mean_frames)], **found},
            "zooms": zooms,
            "uniform": uniform,
            "curves": {row: _curve(store.folder / row / "log.jsonl") for row in models if row != "sft"},
        }


def _uniform_model(context: Any, base: Path, exemplars: Path, held_out: Path, num_frames: int) -> Path:
    """SFT on right answers to the exemplars' questions, with uniform frames and no zooms."""
    from vzoom.train.pipeline import stages

    (config,) = context.synthetic.configs.values()
    zoom = uniform_frames(context.recipe.zoom, num_frames=num_frames, duration_seconds=config.duration_seconds)
    one = replace(context, recipe=replace(context.recipe, zoom=zoom))
    data = direct_answers(one, f"uniform-{num_frames}-data", exemplars, model=base)
    model: Path = stages.train_sft(one, f"uniform-{num_frames}", base=base, data=data, eval_questions=held_out)
    return model


def uniform_frames(config: Any, *, num_frames: int, duration_seconds: float) -> Any:
    """The ZoomConfig of a model without zooms: num_frames uniform frames of a video of this length."""
    return replace(
        config,
        max_zooms=0,
        glance_fps=num_frames / duration_seconds,
        glance_max_frames=num_frames,
        max_frames=max(config.max_frames, num_frames),
    )


def direct_answers(context: Any, name: str, exemplars: Path, *, model: Path) -> Path:
    """A stage: the questions of exemplars under the recipe's zoom config, answered rightly and at once.

    It is the data of a model that never zooms. A thought says what the glance shows, and nothing else.
    """
    import numpy as np

    from vzoom.data import EpisodeFactory, Writer, read
    from vzoom.models import load_patch_spec, load_vocabulary
    from vzoom.protocol import render_turn
    from vzoom.synthetic import facts_of, next_turn
    from vzoom.types import Answer
    from vzoom.video import ClipCache

    zoom = context.recipe.zoom

    def make(folder: Path) -> Sequence[Path]:
        factory = EpisodeFactory(load_vocabulary(str(model)), load_patch_spec(str(model)), ClipCache())
        with Writer(folder / "records") as writer:
            for record in read(exemplars):
                if record.id in writer.ids:
                    continue
                video, question = facts_of(record.id, context.synthetic.configs)
                turn = next_turn(video, question, zoom, (), zooms_left=0, rng=np.random.default_rng(0))
                bare = replace(record, config=zoom, glance_seconds=(), turns=(), stop_reason=None)
                episode = factory.open(bare)
                episode.say(render_turn(turn.thought, Answer(question.answer_letter), zoom.protocol), "oracle")
                writer.add(episode.record(record.id))
        return [folder / "records"]

    settings = {"zoom": zoom, "model": f"{model.parent.name}/{model.name}"}
    records: Path = context.store.stage(name, make, settings=settings, inputs=[exemplars]) / "records"
    return records


def _curve(path: Path) -> list[dict[str, float]]:
    """What an RL run logged, the figures that a plot shows."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    wanted = ("step", "reward", "accuracy", "zoom_rate", "eval/reward", "eval/accuracy")
    return [{name: round(row[name], 4) for name in wanted if name in row} for row in rows]


def collect(found: Sequence[dict[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """The figures of all seeds as one table: means over seeds, 95 % intervals by two-level bootstrap."""
    rows = [{"name": row, **figures([one["rows"][row] for one in found])} for row in ROWS]
    return {
        "num_questions": len(found[0]["rows"]["full"]),
        "seeds": list(seeds),
        "rows": rows,
        "zooms": {
            row: {str(k): figures([one["zooms"][row][str(k)] for one in found]) for k in MAX_ZOOMS}
            for row in ("sft", "full")
        },
        "uniform": {budget: figures([scores]) for budget, scores in found[0]["uniform"].items()},
        "curves": {row: [one["curves"][row] for one in found] for row in found[0]["curves"]},
    }


def figures(seeds: Sequence[Sequence[dict[str, float]]]) -> dict[str, Any]:
    """Means over seeds: accuracy with its interval, zooms, zoom_rate (of questions with a zoom), frames, hit_rate."""
    from vzoom.eval.scores.intervals import interval

    accuracy = interval([[s["accuracy"] for s in scores] for scores in seeds])

    def mean(value: Callable[[dict[str, float]], float]) -> float:
        return round(sum(sum(map(value, scores)) / len(scores) for scores in seeds) / len(seeds), 4)

    return {
        "accuracy": round(accuracy.mean, 4),
        "interval": [round(accuracy.low, 4), round(accuracy.high, 4)],
        "zooms": mean(lambda s: s["mean_zooms"]),
        "zoom_rate": mean(lambda s: float(s["mean_zooms"] > 0)),
        "frames": mean(lambda s: s["mean_frames"]),
        "hit_rate": mean(lambda s: s["hit_rate"]),
        "by_seed": [round(sum(s["accuracy"] for s in scores) / len(scores), 4) for scores in seeds],
    }


def ceiling(recipe: Any, num_frames: int, seeds: Sequence[int], num_questions: int) -> float:
    """The accuracy of a perfect reader of uniform frames, who guesses if they do not show the evidence."""
    from vzoom.protocol.frame_times import glance_timestamps
    from vzoom.synthetic.evaluate import question_seeds
    from vzoom.synthetic.questions import ask_questions, is_hit
    from vzoom.synthetic.spec import make_video

    config = recipe.synthetic.configs[FAMILY]
    zoom = uniform_frames(recipe.zoom, num_frames=num_frames, duration_seconds=config.duration_seconds)
    right = []
    for seed in seeds:
        for one in question_seeds(_EVAL_SEED + seed, num_questions):
            video = make_video(one, config)
            question = ask_questions(video, FAMILY, one)
            seen = is_hit(question.evidence, glance_timestamps(video.info(), zoom))
            right.append(1.0 if seen else question.chance)
    return sum(right) / len(right)


def _cpu_hours(work: Path, seeds: Sequence[int]) -> float:
    folders = [work / "common", *(work / f"seed{seed}" for seed in seeds)]
    entries = [json.loads((folder / "manifest.json").read_text()).values() for folder in folders]
    return float(sum(entry["cpu_seconds"] for some in entries for entry in some)) / 3600


def _say(who: str) -> Callable[[str], None]:
    return lambda line: print(f"{time.strftime('%H:%M:%S')} {who}: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
