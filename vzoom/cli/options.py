"""Flags that several commands share, each declared once, and flags that are made of settings dataclasses.

What a flag means is the same in every command. A flag that is made of a dataclass has the field's name, type, meaning
and default; its value is None unless the user gives it, so that `given` returns what was said and nothing else.
"""

from __future__ import annotations

import argparse
import os
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from ..config import LIMITS, Sampling, Setting, VideoOptions, ZoomConfig, settings_of


def cache_home() -> Path:
    """Where caches go that nobody names a folder for: ~/.cache/vzoom, or below XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vzoom"


def output_path(text: str, suffix: str) -> Path:
    """A file that can be written later: its folder is there, and its name cannot be that of something precious."""
    path = Path(text)
    if path.suffix.lower() != suffix:
        raise argparse.ArgumentTypeError(f"{text} must end in {suffix}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder {path.parent} does not exist: make it, or name another")
    return path


def report_path(text: str) -> Path:
    """The name of an HTML page, for argparse."""
    return output_path(text, ".html")


def video_path(text: str) -> Path:
    """The name of an MP4 file, for argparse."""
    return output_path(text, ".mp4")


_SHARED: dict[str, dict[str, Any]] = {
    "--json": {"action": "store_true", "help": "print one JSON object and nothing else"},
    "--cache": {
        "type": Path,
        "metavar": "DIR",
        "help": "folder of what can be made or fetched again: rendered videos, files of a benchmark",
    },
    "--limit": {"type": int, "metavar": "N", "help": "ask only the first N questions"},
    "--max-sessions": {"type": int, "metavar": "N", "help": "conversations of the model at once"},
    "--seed": {"type": int, "metavar": "N", "default": Sampling.seed, "help": "seed of all that is drawn at random"},
    "--questions": {
        "type": Path,
        "required": True,
        "metavar": "DIR",
        "help": "folder of question records, as `vzoom data import` makes them",
    },
    "--report": {"type": report_path, "metavar": "FILE", "help": "also write a self-contained HTML page"},
    "--device": {
        "default": "auto",
        "metavar": "DEVICE",
        "help": "auto (default) is CUDA if torch sees a GPU, else the CPU; or cpu, cuda, or one GPU such as cuda:1",
    },
    "--dtype": {
        "default": "auto",
        "choices": ("auto", "float32", "bfloat16", "float16"),
        "help": "auto (default) is the checkpoint's own type; on a CPU that does not multiply in it float32",
    },
    "--adapter": {
        "metavar": "ADAPTER",
        "help": "LoRA adapter of PEFT, a folder or hub id, to merge into --model (which may be an adapter itself: its "
        "base is then found by its adapter_config.json)",
    },
    "--protocol": {
        "metavar": "PROTOCOL",
        "help": "what the model is shown and how it writes: the name of a built-in protocol or a protocol.toml "
        "(default: the one that the checkpoint was trained in, see docs/protocols.md)",
    },
    "--system": {
        "type": Path,
        "metavar": "FILE",
        "help": "text file with the system message, in place of the protocol's own",
    },
    "--engine": {
        "default": "vzoom",
        "choices": ("auto", "vzoom", "vllm"),
        "help": "who runs the model: vzoom (default) in this process, or vLLM in processes of its own; auto is vLLM if "
        "--vllm is given or vzoom does not know the family",
    },
    "--vllm": {
        "action": "append",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "a setting of vLLM, such as tensor_parallel_size=2; may be given several times",
    },
    "--revision": {"metavar": "REVISION", "help": "branch, tag or commit of a --model from the hub"},
}


def share(parser: argparse._ActionsContainer, *flags: str, **changes: Any) -> None:
    """Add shared flags; `changes` are of `add_argument`, for a command with a default of its own."""
    for flag in flags:
        words = _SHARED[flag] | changes
        if isinstance(words.get("default"), int):
            words["help"] += " (default: %(default)s)"
        parser.add_argument(flag, **words)


def add_out(parser: argparse._ActionsContainer, what: str, **changes: Any) -> None:
    """--out, or -o: where the results of the command go. what: the kind of file or folder."""
    usual: dict[str, Any] = {"type": Path, "metavar": "DIR", "help": f"where the results go: {what}"}
    parser.add_argument("-o", "--out", **usual | changes)


def add_model(parser: argparse._ActionsContainer, role: str, **changes: Any) -> None:
    """--model. role: what the command does with it."""
    said = "" if "default" in changes or changes.get("required") else " (default)"
    text = (
        f"{role}: a folder, a hub id such as zsgvivo/videozoomer, or embedded{said}, the small model of the package, "
        "which knows only vzoom's synthetic videos"
    )
    parser.add_argument("--model", **{"default": "embedded", "metavar": "MODEL", "help": text} | changes)


def add_model_options(parser: argparse.ArgumentParser, role: str = "the model that answers", **changes: Any) -> None:
    """--model and how it is loaded, run and prompted: what `load_zoomer` reads."""
    group = parser.add_argument_group("model")
    add_model(group, role, **changes)
    share(group, "--adapter", "--revision", "--protocol", "--system", "--device", "--dtype", "--engine", "--vllm")
    add_video_options(parser)


_VIDEO_FLAGS = {
    "backend": "video-backend",
    "stream": "video-stream",
    "num_threads": "video-threads",
    "deadline_seconds": "video-deadline",
}


def add_video_options(parser: argparse.ArgumentParser) -> None:
    """How videos are read: what `video_options` returns."""
    add_settings(parser.add_argument_group("reading videos"), VideoOptions, _VIDEO_FLAGS, flags=_VIDEO_FLAGS)


def video_options(args: argparse.Namespace) -> VideoOptions:
    """What the user gave of the options of `add_video_options`. ValueError: a value is out of range."""
    return VideoOptions(**given(args, VideoOptions, _VIDEO_FLAGS, flags=_VIDEO_FLAGS))


def add_video(parser: argparse.ArgumentParser, *name: str, **words: Any) -> None:
    """A video of the user's, and --frame-rate: what `vzoom.cli.loading.video_of` reads."""
    usual = {"metavar": "VIDEO", "help": "a video file, a URL, a folder of images, or - for standard input"}
    parser.add_argument(*name, **usual | words)
    parser.add_argument(
        "--frame-rate", type=float, metavar="X", help="frames per second of a video that is a folder of images"
    )


def add_limits(parser: argparse.ArgumentParser) -> None:
    """The limits of `ZoomConfig`."""
    group = parser.add_argument_group("limits (the defaults are the checkpoint's own, from its vzoom.json)")
    add_settings(group, ZoomConfig, LIMITS, show_defaults=False)


def add_settings(
    group: argparse._ActionsContainer,
    cls: type,
    names: Iterable[str] | None = None,
    *,
    flags: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
    show_defaults: bool = True,
) -> None:
    """A flag for each of the named fields of a settings dataclass, or for all.

    Args:
        group: a parser, or a group of one.
        cls: see `vzoom.config.settings_of`.
        names: fields, in the order in which --help shows them.
        flags: other names for some, without the dashes.
        defaults: what the command takes if the user says nothing, instead of leaving it to the dataclass.
        show_defaults: whether --help says the defaults.
    """
    by_name = settings_of(cls)
    for name in by_name if names is None else names:
        setting, own = by_name[name], (defaults or {}).get(name)
        default = setting.default if own is None else own
        is_set = default is not None and default is not False  # else the meaning says what happens without it
        shown = f" (default: {_text(default)})" if show_defaults and is_set else ""
        flag = (flags or {}).get(name, name).replace("_", "-")
        group.add_argument(f"--{flag}", default=own, help=setting.meaning.replace("%", "%%") + shown, **_kind(setting))


def given(
    args: argparse.Namespace, cls: type, names: Iterable[str] | None = None, *, flags: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What the user gave of the flags that `add_settings` made, by field. The other fields keep their defaults."""
    wanted = settings_of(cls) if names is None else names
    said = {name: getattr(args, (flags or {}).get(name, name).replace("-", "_"), None) for name in wanted}
    return {name: value for name, value in said.items() if value is not None}


def _kind(setting: Setting) -> dict[str, Any]:
    """How argparse reads a field."""
    kind = setting.kind
    if get_origin(kind) in (Union, types.UnionType):  # int | None
        (kind,) = (one for one in get_args(kind) if one is not types.NoneType)
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    if kind is bool:
        return {"action": "store_const", "const": True}
    return {"type": kind, "metavar": {int: "N", float: "X"}.get(kind, "TEXT")}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
