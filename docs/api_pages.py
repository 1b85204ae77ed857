"""Writes the pages of the API reference: one for `import vzoom`, one for each room, by what their stubs name.

The text of each entry is the docstring's, which Sphinx reads when it builds. A name that `vzoom` itself offers is
described on the first page alone; the room's page links there.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import vzoom

PACKAGE = Path(vzoom.__file__).parent
_FIRST = ("load", "Zoomer", "Result")  # what a newcomer looks for
_LONGEST_VALUE = 70
_SECTIONS = ("Args:", "Attributes:", "Returns:", "Yields:", "Raises:")
_STAR = re.compile(r"(`[^`]*`)|\*")


def write(folder: Path) -> None:
    """Write all pages into `folder`; pages of rooms that are gone are removed."""
    folder.mkdir(exist_ok=True)
    pages = {"vzoom": _public_page(), **{room: _room_page(room) for room in rooms()}}
    pages["index"] = _index_page(list(pages))
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:  # Sphinx reads again what is newer
            path.write_text(text)
    for path in folder.glob("*.md"):
        if path.stem not in pages:
            path.unlink()


def rooms() -> list[str]:
    """Folders with a stub, and the loose files at the top of the package, in the order of the alphabet."""
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.pyi")}
    files = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
    return sorted(folders | files)


def names_of(module: ModuleType) -> list[str]:
    """What a room offers: the names of its stub, or what a room of one file defines."""
    stub = Path(inspect.getfile(module)).with_suffix(".pyi")
    if not stub.exists():
        return [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        ]
    found = []
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            found += [alias.asname or alias.name for alias in node.names]
    return found


def _public_page() -> str:
    names = [*_FIRST, *(name for name in names_of(vzoom) if name not in _FIRST)]
    entries = [_entry("vzoom", name) for name in names]
    return "\n\n".join(["# vzoom", _text_of(vzoom), *entries]) + "\n"


def _room_page(room: str) -> str:
    module = importlib.import_module(f"vzoom.{room}")
    public = {getattr(vzoom, name): name for name in names_of(vzoom) if _is_described(getattr(vzoom, name))}
    entries, elsewhere = [], []
    for name in names_of(module):
        value = getattr(module, name)
        if _is_described(value) and value in public:
            elsewhere.append(f"[`{name}`](#vzoom.{public[value]})")
        else:
            entries.append(_entry(module.__name__, name))
    also = [f"Described on [the page of vzoom](vzoom.md): {', '.join(elsewhere)}."] if elsewhere else []
    return "\n\n".join([f"# vzoom.{room}", _text_of(module), *also, *entries]) + "\n"


def _index_page(pages: Iterable[str]) -> str:
    listed = "\n".join(pages)
    text = (
        "What `import vzoom` offers comes first; then the rooms of the package, each with what it offers to the others."
    )
    return f"# API reference\n\n{text}\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"


def _is_described(value: object) -> bool:
    """Whether it has a docstring of its own: classes and functions do, constants and aliases do not."""
    return inspect.isclass(value) or inspect.isfunction(value)


def as_rst(lines: Sequence[str]) -> list[str]:
    """A docstring, which is plain text with `code` in it, as the reStructuredText that Sphinx reads.

    An indented example after a blank line becomes a literal block (the text of `Args:` and the like follows at once),
    and a star outside of `code` stays a star.
    """
    marked: list[str] = []
    is_example = is_section = False
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("    "):
            if not before.strip() and not is_section and not is_example:
                is_example = True
                marked += ["::", ""]
        elif line.strip():
            is_example = False
            is_section = line.rstrip() in _SECTIONS
        marked.append(line if is_example else _STAR.sub(lambda found: found[1] or r"\*", line))
    return marked


def _text_of(module: ModuleType) -> str:
    lines = (inspect.getdoc(module) or "").splitlines()
    return _rst("\n".join(as_rst(lines)))


def _entry(module: str, name: str) -> str:
    value = getattr(importlib.import_module(module), name)
    if inspect.isclass(value):
        return _rst(f".. autoclass:: {module}.{name}\n   :members:")
    if inspect.isfunction(value):
        return _rst(f".. autofunction:: {module}.{name}")
    shown = repr(value)
    option = f"\n   :value: {shown}" if len(shown) <= _LONGEST_VALUE else ""
    return _rst(f".. py:data:: {module}.{name}{option}")


def _rst(text: str) -> str:
    return f"````{{eval-rst}}\n{text}\n````"
