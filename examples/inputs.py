"""What the programs here are about: a model, a video, a question. Without options: the small model of the package and a
video that is rendered for it, so that every program runs anywhere in seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vzoom.synthetic import Question, ask_questions, config_for, make_video, render


def arguments(description: str | None) -> argparse.Namespace:
    """The options that all programs have: --model, --video, --question, --out."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="a folder or a hub id (default: the package's small model)")
    parser.add_argument("--video", type=Path, help="a video of yours; needs --question and a model that knows videos")
    parser.add_argument("--question", help="what you want to know about it")
    parser.add_argument("--out", type=Path, default=Path("example-out"), help="a folder for what is written")
    args = parser.parse_args()
    if (args.video is None) != (args.question is None):
        parser.error("--video and --question go together")
    args.out.mkdir(parents=True, exist_ok=True)
    if args.video is None:
        args.video, question = rendered_video(args.out)
        args.question = question.text
    return args


def rendered_video(folder: Path, seed: int = 4) -> tuple[Path, Question]:
    """A video in which shapes flash for half a second, and a question that a glance cannot answer, with its answer."""
    made = make_video(seed, config_for("which"))
    path = folder / f"video-{seed}.mp4"
    if not path.exists():
        render(made, path)
    return path, ask_questions(made, "which", seed)
