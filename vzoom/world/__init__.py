"""Procedural long videos with exact ground truth: for tests, for the demo, and the embedded model's school.

video = make_video(seed=3)
render(video, "world.mp4")
question = ask_questions(video, "which", seed=3)
evaluate(zoomer, "which", num_questions=200, seed=0, max_zooms=4)["accuracy"]
"""

from .evaluate import evaluate
from .oracle import OracleTurn, oracle_turns
from .questions import FAMILIES, Question, ask_questions, config_for, is_hit
from .spec import COLOURS, SHAPES, Scene, WorldConfig, WorldEvent, WorldVideo, make_video
from .video import render

__all__ = [
    "COLOURS",
    "FAMILIES",
    "SHAPES",
    "OracleTurn",
    "Question",
    "Scene",
    "WorldConfig",
    "WorldEvent",
    "WorldVideo",
    "ask_questions",
    "config_for",
    "evaluate",
    "is_hit",
    "make_video",
    "oracle_turns",
    "render",
]
