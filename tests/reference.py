"""docs/reference.md: its tables of settings and exit codes, made of the code, and the environment variables that the
code reads. `python tests/reference.py` writes the tables."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

from rooms import PACKAGE, ROOT

from vzoom.cli.exit_codes import ExitCode
from vzoom.config import LIMITS, Setting, ZoomConfig, settings_of

PAGE = ROOT / "docs" / "reference.md"


def settings_table() -> str:
    """The fields of `vzoom.json`."""
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for one in settings_of(ZoomConfig).values():
        if one.name == "protocol":  # the field's default is made when it is needed
            rows.append(
                f'| `protocol` (`--protocol`) | name or table | `"{ZoomConfig().protocol.name}"` | {one.meaning} |'
            )
            continue
        name = f"`{one.name}`" if one.name in LIMITS else f"`{one.name}` (no flag)"
        rows.append(f"| {name} | {_type(one)} | `{json.dumps(one.default)}` | {one.meaning} |")
    return "\n".join(rows)


def _type(setting: Setting) -> str:
    if get_origin(setting.kind) is Literal:
        return " or ".join(f'`"{choice}"`' for choice in get_args(setting.kind))
    return {int: "whole number", float: "number"}[setting.kind]


def exit_codes_table() -> str:
    """What the exit codes of `vzoom` mean."""
    return "\n".join(["| code | meaning |", "|---|---|", *(f"| {int(code)} | {code.meaning} |" for code in ExitCode)])


def page_with_tables(text: str) -> str:
    """The text of the page with the tables of today in their places."""
    for name, table in (("settings", settings_table()), ("exit codes", exit_codes_table())):
        begin, end = f"<!-- {name}: written by `python tests/reference.py` -->", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        assert found, f"{PAGE} has no place for the table of {name}"
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


def documented_variables() -> set[str]:
    """The names in the first column of the page's table of environment variables."""
    section = PAGE.read_text().partition("## Environment variables")[2].partition("\n## ")[0]
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for cell in first for name in re.findall(r"`(\w+)`", cell)}


def patterns_of_variables() -> dict[str, str]:
    """Regular expressions of the environment variables that the package reads, each with a place where it does."""
    found: dict[str, str] = {}
    for folder, _, files in os.walk(PACKAGE, followlinks=True):
        for path in sorted(Path(folder, file) for file in files if file.endswith(".py")):
            tree = ast.parse(path.read_text(), str(path))
            for pattern, line in read_in(tree):
                found.setdefault(pattern, f"{path.relative_to(ROOT)}:{line}")
    return found


def read_in(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """A pattern and a line for each place of a module that reads a variable."""
    constants = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=holder, slice=name) if _is_environment(holder):
                pass
            case ast.Call(func=ast.Attribute(value=holder), args=[name, *_]) if _is_environment(holder):
                pass
            case ast.Compare(left=name, ops=[ast.In() | ast.NotIn()], comparators=[holder]) if _is_environment(holder):
                pass
            case ast.Call(func=ast.Attribute(attr="getenv") | ast.Name(id="getenv"), args=[name, *_]):
                pass
            case ast.Call(func=ast.Name(id="endpoints_from_environment"), args=[name, *_]):
                for ending in ("URL", "MODEL", "KEY", "KEY_FILE", "PRICE_IN", "PRICE_OUT", "OPTIONS"):
                    yield f"{_pattern(name, constants)}_{ending}", node.lineno
                continue
            case _:
                continue
        yield _pattern(name, constants), node.lineno


def _is_environment(node: ast.expr) -> bool:
    return ast.unparse(node) in ("os.environ", "environ", "environment")


def _pattern(name: ast.expr, constants: dict[str, object]) -> str:
    match name:
        case ast.Constant(value=str(text)):
            return re.escape(text)
        case ast.JoinedStr(values=parts):
            return "".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else r"\w+" for part in parts)
        case ast.Name(id=known) if isinstance(constants.get(known), str):
            return re.escape(str(constants[known]))
    raise AssertionError(f"line {name.lineno}: cannot tell which variable {ast.unparse(name)} is: name it in the call")


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text()))
