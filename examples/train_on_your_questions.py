"""Train a model on questions of your own: a list of questions, GRPO, and a folder that `vzoom.load` reads.

    python examples/train_on_your_questions.py
    python examples/train_on_your_questions.py --questions my-questions.json --model Qwen/Qwen2.5-VL-3B-Instruct

my-questions.json is a list of {"problem": text, "solution": "B", "videos": ["match.mp4"]}; options are the last lines
of the problem, "A: red". Without it the program renders two videos and rehearses on them: two steps with groups of four
rollouts. Nothing is learned from so few, but all of the training runs. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from inputs import rendered_video

import vzoom
from vzoom.data import Writer, import_rl
from vzoom.train import recipe_named, run_grpo
from vzoom.zoomer import embedded_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="what is trained: a folder or a hub id")
    parser.add_argument("--questions", type=Path, help="a JSON list of yours (default: about two rendered videos)")
    parser.add_argument("--out", type=Path, default=Path("example-out"), help="a folder for what is written")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rehearsal = args.questions is None
    questions = args.questions or write_questions(args.out)

    # The list becomes records: the video is opened and hashed, the options are read, and a row that is wrong stops here
    # with its number and not in the middle of training.
    recipe = recipe_named("tiny" if rehearsal else "qwen2.5-vl-3b-1gpu")
    with Writer(args.out / "questions") as writer:
        for record in import_rl(questions, videos=questions.parent, config=recipe.zoom):
            if record.id not in writer.ids:
                writer.add(record)

    # A recipe is frozen data: `replace` makes another one. These figures are for a look at the machinery.
    if rehearsal:
        small = replace(
            recipe.grpo,
            steps=2,
            questions_per_step=2,
            num_rollouts=4,
            updates_per_step=1,
            micro_batch_size=2,
            temperature=1.5,
            eval_questions=2,
        )
        recipe = replace(recipe, grpo=small)
    base = embedded_path() if args.model == "embedded" else args.model
    trained = run_grpo(recipe, base=base, questions=args.out / "questions", out=args.out / "trained")

    # A rollout was rewarded for a right answer, for the form of its turns, and for zooming where zooms are rare.
    zoomer = vzoom.load(trained)
    first = json.loads(questions.read_text())[0]
    result = zoomer.ask(questions.parent / first["videos"][0], first["problem"])
    print(f"{trained} answers {result.answer}, and {first['solution']} is right")


def write_questions(folder: Path) -> Path:
    """A list of two questions, in the form in which VideoZoomer published theirs."""
    rows = []
    for seed in (4, 5):
        video, question = rendered_video(folder, seed)
        rows.append({"problem": question.text, "solution": question.answer_letter, "videos": [video.name]})
    path = folder / "my-questions.json"
    path.write_text(json.dumps(rows, indent=1))
    return path


if __name__ == "__main__":
    main()
