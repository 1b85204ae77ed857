"""`vzoom doctor`: what is installed, what runs, what is missing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..console import Style, print_json, printable
from ..exit_codes import ExitCode
from ..options import add_out, share

_EXAMPLES = """examples:
  vzoom doctor
  vzoom doctor --json | jq .ops
  vzoom doctor match.mp4
  vzoom doctor --gpu --out h100.json
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        help="say what is installed, what runs, and what is missing",
        description="Say what is installed, which implementation each operation uses and why, and what is missing. "
        "With FILE: what the video is, who would decode it, and why.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("video", nargs="?", metavar="FILE", help="a video file or URL")
    kind = parser.add_mutually_exclusive_group()
    share(kind, "--json")
    kind.add_argument(
        "--gpu",
        action="store_true",
        help="check every kernel on this machine's GPU against the reference, time it, print and save a table; "
        "exit code 1 if a check fails, 3 if there is no GPU",
    )
    table = Path("gpu_check.json")
    add_out(parser, f"a JSON file with the table of --gpu (default: {table})", default=table, metavar="FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..environment import examine, examine_video

    if args.video is not None:
        if args.gpu:
            raise ValueError("--gpu checks the kernels and takes no FILE")
        video = examine_video(args.video)
        if args.json:
            print_json(video)
        else:
            _show_video(video, Style(sys.stdout))
        return ExitCode.OK
    found = examine()
    if args.gpu:
        return _check_gpu(found, args.out)
    if args.json:
        print_json(found)
    else:
        _show(found, Style(sys.stdout))
    return ExitCode.OK


def _check_gpu(found: dict[str, Any], out: Path) -> int:
    if not found["gpu"]["devices"]:
        how = next(entry["how"] for entry in found["missing"] if entry["what"] == "a GPU")
        print(f"vzoom doctor: no GPU was found here: {found['gpu']['why_none']}; {how}", file=sys.stderr)
        return ExitCode.NO_GPU
    from vzoom.kernels import gpu_check

    return gpu_check.main(["--save", str(out)])


def _show(found: dict[str, Any], style: Style) -> None:
    cpu, gpu, extension = found["cpu"], found["gpu"], found["extension"]
    _section(f"vzoom {found['vzoom']}", style, [("python", found["python"]), ("platform", found["platform"])])
    packages = [(name, _package(entry, style)) for name, entry in found["packages"].items()]
    _section("packages", style, packages or [("unknown", "vzoom itself is not installed")])
    threads = "" if cpu["torch_threads"] is None else f", torch uses {cpu['torch_threads']}"
    devices = [f"{d['name']}, {d['memory_gib']} GiB, sm_{d['capability']}" for d in gpu["devices"]]
    rows = [("cpu", f"{cpu['model']}, {cpu['cores']} cores{threads}")]
    rows += [("features", " ".join(cpu["features"]) or "none that vzoom uses")]
    rows += [("gpu", text) for text in devices or [f"none: {gpu['why_none']}"]]
    rows += [("extension", extension["path"] or style(extension["why_missing"], "red"))]
    _section("machine", style, rows)
    _section("video", style, _decoders(found["video"], style))
    ops = [(op, f"{entry['impl']}  {style(entry['why'], 'dim')}") for op, entry in found["ops"].items()]
    _section(f"operations on {found['device']}", style, ops or [("none", "they need torch")])
    print(style("missing", "bold"))
    for entry in found["missing"]:
        print(f"  {entry['what']}\n    {entry['how']}")
    if not found["missing"]:
        print("  nothing that this machine could use")


def _decoders(video: dict[str, Any], style: Style) -> list[tuple[str, str]]:
    """Who decodes what."""
    rows = []
    for name, entry in video.items():
        if "why_not" in entry:
            rows.append((name, style(entry["why_not"], "dim")))
            continue
        rows.append((name, f"{' '.join(entry['codecs'])}  {style('on the CPU', 'dim')}"))
        if "gpu_codecs" in entry:
            rows.append(("", f"{' '.join(entry['gpu_codecs'])}  {style('on the GPU', 'dim')}"))
        elif name == "dali":
            rows.append(("", style(f"no decoding on GPUs: {entry['why_not_on_gpu']}", "dim")))
    return rows


def _show_video(video: dict[str, Any], style: Style) -> None:
    rate = f"{video['fps']:.4g} fps"
    if video["max_fps"] is not None:
        rate += f" on average, up to {video['max_fps']:.4g}"
    stored = ("container", "stream", "codec", "pixel_format")
    rows: list[tuple[str, str]] = [(name, str(video[name])) for name in stored if name in video]
    rows += [
        ("size", f"{video['width']}x{video['height']}"),
        ("rate", rate),
        ("duration", f"{video['duration_seconds']:.2f} s"),
        ("decoder", f"{video['backend']} (model on {video['device']})"),
    ]
    rows += [("note", said) for said in video["notes"]]
    _section(printable(video["video"]), style, rows)


def _package(entry: dict[str, Any], style: Style) -> str:
    if entry["version"] is None:
        extra = entry["extras"][0]
        return style(f"not installed: {entry['purpose']} ({f'extra {extra}' if extra else 'needed'})", "dim")
    problem = entry["problem"]
    return f"{entry['version']}" if problem is None else f"{entry['version']}  {style(problem, 'red')}"


def _section(title: str, style: Style, rows: list[tuple[str, str]]) -> None:
    print(style(title, "bold"))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"  {name:{width}}  {text}")
