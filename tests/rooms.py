"""The rooms of the package, top to bottom: a file imports only from rooms above its own, and from rooms, not from
files in them. `python tests/rooms.py` writes the table of docs/architecture.md."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vzoom"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: written by `python tests/rooms.py` -->", "<!-- /rooms -->"

# Loose files at the top of the package are rooms of one file.
ROOMS = (
    "types",
    "interrupts",
    "protocol",
    "config",
    "chat",
    "kernels",
    "video",
    "models",
    "engine",
    "vllm",
    "hf",
    "report",
    "zoomer",
    "data",
    "synthetic",
    "eval",
    "train",
    "cli",
    "__main__",
)
RANK = {room: rank for rank, room in enumerate(ROOMS)}


def purpose(room: str) -> str:
    """The first line of a room's docstring. (The kernels hold no `__init__.py`: their README says it.)"""
    if room == "kernels":
        return "The operations: reference in torch, implementations, choice. See [kernels.md](kernels.md)."
    file = PACKAGE / room / "__init__.py"
    text = ast.get_docstring(ast.parse((file if file.exists() else PACKAGE / f"{room}.py").read_text()))
    assert text, f"{room} does not say what it is"
    return text.splitlines()[0]


def table() -> str:
    """The rooms as a Markdown table."""
    rows = [f"| `{room}` | {purpose(room)} |" for room in ROOMS]
    return "\n".join(["| room | what it is |", "|---|---|", *rows])


def page_with(text: str) -> str:
    """The text of the page with the table of today in its place."""
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"{PAGE} has no place for the table"
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text()))
