"""`vzoom doctor`: what is installed, what runs, what is missing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..console import Style, print_json

_NO_GPU = 3

_EXAMPLES = """examples:
  vzoom doctor
  vzoom doctor --json | jq .ops
  vzoom doctor --gpu --save h100.json
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "doctor",
        help="what is installed, which implementation each operation uses, what is missing",
        description="Say what is installed, which implementation each operation uses and why, and what is missing.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    kind.add_argument(
        "--gpu",
        action="store_true",
        help="check every kernel on this machine's GPU against the reference, time it, print and save a table; "
        "exit code 1 where a check fails, 3 where there is no GPU",
    )
    parser.add_argument(
        "--save",
        type=Path,
        default=Path("gpu_check.json"),
        metavar="FILE",
        help="where --gpu saves its table (default: gpu_check.json)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vzoom.cli.environment import examine

    found = examine()
    if args.gpu:
        return _check_gpu(found, args.save)
    if args.json:
        print_json(found)
    else:
        _show(found, Style(sys.stdout))
    return 0


def _check_gpu(found: dict[str, Any], save: Path) -> int:
    if not found["gpu"]["devices"]:
        how = next(entry["how"] for entry in found["missing"] if entry["what"] == "a GPU")
        print(f"vzoom doctor: no GPU was found here: {found['gpu']['why_none']}; {how}", file=sys.stderr)
        return _NO_GPU
    from vzoom.kernels import gpu_check

    return gpu_check.main(["--save", str(save)])


def _show(found: dict[str, Any], style: Style) -> None:
    cpu, gpu, extension = found["cpu"], found["gpu"], found["extension"]
    _section(f"vzoom {found['vzoom']}", style, [("python", found["python"]), ("platform", found["platform"])])
    _section("packages", style, [(name, _package(entry, style)) for name, entry in found["packages"].items()])
    threads = "" if cpu["torch_threads"] is None else f", torch uses {cpu['torch_threads']}"
    devices = [f"{d['name']}, {d['memory_gib']} GiB, sm_{d['capability']}" for d in gpu["devices"]]
    rows = [("cpu", f"{cpu['model']}, {cpu['cores']} cores{threads}")]
    rows += [("features", " ".join(cpu["features"]) or "none that vzoom uses")]
    rows += [("gpu", text) for text in devices or [f"none: {gpu['why_none']}"]]
    rows += [("extension", extension["path"] or style(extension["why_missing"], "red"))]
    _section("machine", style, rows)
    ops = [(op, f"{entry['impl']}  {style(entry['why'], 'dim')}") for op, entry in found["ops"].items()]
    _section(f"operations on {found['device']}", style, ops or [("none", "they need torch")])
    missing = [(entry["what"], entry["how"]) for entry in found["missing"]]
    _section("missing", style, missing or [("nothing", "that this machine could use")])


def _package(entry: dict[str, Any], style: Style) -> str:
    if entry["version"] is None:
        return style(f"not installed: {entry['purpose']}", "dim")
    problem = entry["problem"]
    return f"{entry['version']}" if problem is None else f"{entry['version']}  {style(problem, 'red')}"


def _section(title: str, style: Style, rows: list[tuple[str, str]]) -> None:
    print(style(title, "bold"))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"  {name:{width}}  {text}")
