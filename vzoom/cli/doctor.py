"""`vzoom doctor`: what is installed, what runs, what is missing."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .console import Style, print_json

_EXAMPLES = """examples:
  vzoom doctor
  vzoom doctor --json | jq .ops
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "doctor",
        help="what is installed, which implementation each operation uses, what is missing",
        description="Say what is installed, which implementation each operation uses and why, and what is missing.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vzoom.doctor import examine

    found = examine()
    if args.json:
        print_json(found)
    else:
        _show(found, Style(sys.stdout))
    return 0


def _show(found: dict[str, Any], style: Style) -> None:
    cpu, gpu, extension = found["cpu"], found["gpu"], found["extension"]
    _section("vzoom", style, [("version", found["vzoom"]), ("python", found["python"]), ("platform", found["platform"])])
    _section(
        "packages",
        style,
        [
            (name, f"{p['version']}{'' if p['problem'] is None else '  ' + style(p['problem'], 'red')}"
             if p["version"] else style(f"not installed: {p['purpose']}", "dim"))
            for name, p in found["packages"].items()
        ],
    )  # fmt: skip
    _section(
        "machine",
        style,
        [
            ("cpu", f"{cpu['model']}, {cpu['cores']} cores, torch uses {cpu['torch_threads']} threads"),
            ("features", " ".join(cpu["features"]) or "none that vzoom uses"),
            *[("gpu", f"{g['name']}, {g['memory_gib']} GiB, sm_{g['capability']}") for g in gpu["devices"]],
            *([] if gpu["devices"] else [("gpu", f"none: {gpu['why_none']}")]),
            ("extension", extension["path"] or style(extension["why_missing"], "red")),
        ],
    )
    _section(
        f"operations on {found['device']}",
        style,
        [(op, f"{o['impl']}  {style(o['why'], 'dim')}") for op, o in found["ops"].items()],
    )
    missing = [(m["what"], m["how"]) for m in found["missing"]]
    _section("missing", style, missing or [("nothing", "that this machine could use")])


def _section(title: str, style: Style, rows: list[tuple[str, str]]) -> None:
    print(style(title, "bold"))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"  {name:{width}}  {text}")
