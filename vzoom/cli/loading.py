"""What --model names: loaded with the limits that the options set, or only found."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import LIMITS, ZoomConfig
from .console import note
from .options import given, video_options
from .progress import StageLine

if TYPE_CHECKING:
    from ..video import VideoInput
    from ..zoomer import Zoomer

EMBEDDED_NOTE = (
    "the embedded model knows nothing but vzoom's own synthetic videos. For real videos name a model, "
    "for example --model zsgvivo/videozoomer or --model Qwen/Qwen2.5-VL-7B-Instruct"
)


def load_zoomer(args: argparse.Namespace, *, warn: bool = True) -> Zoomer:
    """Load the model that the options name, with the limits that they set.

    Args:
        args: of a parser with `add_model_options`, and maybe `add_limits`.
        warn: say so if it is the embedded model, which real videos are strange to.

    Raises:
        ValueError: limits that do not fit together, or a folder that is not there.
        OSError: a model that cannot be found or read.
    """
    from ..vllm import parse_settings

    limits = given(args, ZoomConfig, LIMITS)
    ZoomConfig().override(**limits)  # checked before the model is loaded, which can take minutes
    video = video_options(args)
    if warn and args.model == "embedded":
        note(EMBEDDED_NOTE)
    line = StageLine()
    is_terminal = sys.stderr.isatty()
    if is_terminal:
        line(f"loading {args.model}")
    try:
        zoomer = open_model(
            args.model,
            device=args.device,
            dtype=args.dtype,
            revision=args.revision,
            adapter=args.adapter,
            protocol=args.protocol,
            system=system_text(args.system),
            limits=limits,
            video=video,
            max_sessions=getattr(args, "max_sessions", None) or 1,
            engine=args.engine,
            vllm=parse_settings(args.vllm),
            progress=line if is_terminal else None,
        )
    finally:
        line.end()
    for said in zoomer.info.notes:
        note(said)
    for said in zoomer.info.warnings:
        note(f"warning: {said}")
    return zoomer


def system_text(path: Path | None) -> str | None:
    """The text of a --system file. ValueError if it cannot be read."""
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--system {path}: {error}") from error


def video_of(text: str, frame_rate: float | None) -> VideoInput:
    """The video that a command was given: `text` is a path, a URL, a folder of images, or "-" for standard input.

    Raises:
        ValueError: a folder without --frame-rate, or --frame-rate without a folder.
    """
    from ..video import FrameSequence, seekable

    is_folder = text != "-" and Path(text).is_dir()
    if is_folder and frame_rate is None:
        raise ValueError(f"{text}: a folder; for a folder of images give --frame-rate, its frames per second")
    if frame_rate is not None and not is_folder:
        raise ValueError(f"--frame-rate is for a folder of images, and {text} is none")
    if is_folder:
        return FrameSequence(text, fps=frame_rate)
    return seekable(sys.stdin.buffer) if text == "-" else text


def open_model(model: str, *, progress: Callable[[str], None] | None = None, **settings: Any) -> Zoomer:
    """`vzoom.load`, with errors that name --model.

    Args:
        model: what --model says.
        progress: as for `vzoom.load`.
        settings: the other arguments of `vzoom.load`.
    """
    check_folder(model)
    import vzoom

    try:
        return vzoom.load(model, progress=progress, **settings)
    except OSError as error:
        raise OSError(f"--model {error}") from error


def check_folder(model: str) -> None:
    """ValueError if `model` can only be a folder, and there is none."""
    if model[:1] in "./~" and not Path(model).is_dir():
        raise ValueError(f"--model {model}: no such folder")


def model_path(model: str) -> str:
    """The folder or hub id to read a tokenizer or a configuration from, without loading the model."""
    from ..zoomer import EMBEDDED, embedded_path

    return str(embedded_path()) if model == EMBEDDED else model
