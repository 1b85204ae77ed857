"""Options that several commands share, and what they mean for a loaded model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .console import note

if TYPE_CHECKING:
    from vzoom.zoomer import Zoomer

EMBEDDED_NOTE = (
    "the embedded model knows nothing but vzoom's own rendered world. For real videos name a model, "
    "for example --model zsgvivo/videozoomer or --model Qwen/Qwen2.5-VL-7B-Instruct"
)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="embedded",
        metavar="M",
        help='a folder, a hub id such as zsgvivo/videozoomer, or "embedded" (default): the small model of the package, '
        "which knows only vzoom's rendered world",
    )
    group.add_argument(
        "--device", default="auto", help='"auto" (default: CUDA where there is one), "cpu", "cuda", "cuda:1"'
    )
    group.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="auto (default): float32 on the CPU, the checkpoint's own on a GPU",
    )


def add_looking_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("looking (defaults are the checkpoint's own)")
    group.add_argument("--max-zooms", type=int, metavar="K", help="zooms allowed; 0 answers from the glance alone")
    group.add_argument("--glance-frames", type=int, metavar="N", help="most frames of the glance")
    group.add_argument("--glance-fps", type=float, metavar="FPS", help="frames a second of the glance")
    group.add_argument("--zoom-frames", type=int, metavar="N", help="most frames of one zoom")
    group.add_argument("--max-pixels", type=int, metavar="N", help="most pixels of a frame; 784 are one visual token")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="most tokens that one turn may write")
    group.add_argument("--max-total-tokens", type=int, metavar="N", help="most tokens of the whole conversation")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 (default) is greedy")
    group.add_argument("--top-p", type=float, default=1.0, metavar="P", help="1 (default) is off")
    group.add_argument("--top-k", type=int, default=0, metavar="K", help="0 (default) is off")
    group.add_argument("--seed", type=int, default=0, metavar="S", help="for a temperature above 0 (default: 0)")


def load_zoomer(args: argparse.Namespace, *, warn: bool = True) -> Zoomer:
    """The model that the options name, with the limits that they set. ValueError or OSError where there is none."""
    # Checked before the model is loaded, which can take minutes.
    from vzoom.config import ZoomConfig

    changes = {
        "max_zooms": getattr(args, "max_zooms", None),
        "glance_max_frames": getattr(args, "glance_frames", None),
        "glance_fps": getattr(args, "glance_fps", None),
        "zoom_max_frames": getattr(args, "zoom_frames", None),
        "max_pixels": getattr(args, "max_pixels", None),
        "max_new_tokens": getattr(args, "max_new_tokens", None),
        "max_total_tokens": getattr(args, "max_total_tokens", None),
    }
    ZoomConfig().override(**changes)

    if args.model[:1] in "./~" and not Path(args.model).is_dir():
        raise ValueError(f"--model {args.model}: no such folder")
    import transformers

    import vzoom

    transformers.utils.logging.disable_progress_bar()
    if warn and args.model == "embedded":
        note(EMBEDDED_NOTE)
    elif sys.stderr.isatty():
        note(f"loading {args.model}")
    try:
        zoomer = vzoom.load(args.model, device=args.device, dtype=args.dtype)
    except OSError as error:  # transformers does not always name the model, nor say what to do
        hint = "name a folder with a checkpoint, or a hub id that can be reached from here"
        raise OSError(f"--model {args.model}: {hint} ({error})") from error
    zoomer.config = zoomer.config.override(**changes)
    return zoomer


def output_path(text: str, suffix: str) -> Path:
    """A file that can be written later: its folder is there, and its name cannot be that of something precious."""
    path = Path(text)
    if path.suffix.lower() != suffix:
        raise argparse.ArgumentTypeError(f"{text} must end in {suffix}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder {path.parent} does not exist: make it, or name another")
    return path


def report_path(text: str) -> Path:
    return output_path(text, ".html")


def video_path(text: str) -> Path:
    return output_path(text, ".mp4")
