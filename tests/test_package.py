"""The house itself: which file may import which, what `from protocols import TAGS
import vzoom` costs, and the trap called `kernels`."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from protocols import TAGS
from rooms import PACKAGE, PAGE, RANK, ROOMS, ROOT, page_with

import vzoom

# Not in `dependencies`: importing vzoom's modules must work without them.
EXTRAS = (
    "triton",
    "flash_attn",
    "nvidia",
    "trl",
    "datasets",
    "pyarrow",
    "peft",
    "accelerate",
    "ray",
    "lmms_eval",
    "torchvision",
    "rich",
    "pytest",
)


def _sources() -> Iterator[tuple[str, Path]]:
    """("vzoom.video.pyav", path) for every Python file of the package, through the symlink vzoom/kernels."""
    for folder, _, files in os.walk(PACKAGE, followlinks=True):
        for file in files:
            path = Path(folder, file)
            if path.suffix == ".py":
                parts = path.relative_to(PACKAGE).with_suffix("").parts
                yield ".".join(("vzoom", *(p for p in parts if p != "__init__"))), path


# Who may touch the insides of transformers, which change between its releases: these rooms and one adapter of training.
INSIDE_TRANSFORMERS = ("vzoom.models", "vzoom.hf", "vzoom.train.common.policy")
# The insides: its submodules but for `utils`, its private names, and what its models keep to themselves.
MODEL_INTERNALS = ("_attn_implementation", "get_rope_index", "rope_deltas")

SOURCES = dict(_sources())


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below, leaving out `if TYPE_CHECKING:`, which runs for the type checker only."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _nodes(child)


def _imports(name: str, path: Path) -> Iterator[tuple[str, int]]:
    """(absolute name, line) of everything of vzoom that a file imports, wherever in the file it does so."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in _nodes(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "vzoom":
                    yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(filter(None, (*package.split(".")[: len(package.split(".")) + 1 - node.level], base)))
            if base.partition(".")[0] == "vzoom":
                for alias in node.names:
                    yield f"{base}.{alias.name}", node.lineno


def _room_of(name: str) -> str:
    """The room that a dotted name belongs to; "" for the package itself (`from . import __version__`)."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in RANK else ""


def test_every_file_is_in_a_room() -> None:
    homeless = {name for name in SOURCES if name != "vzoom" and name.split(".")[1] not in RANK}
    assert not homeless, f"put these into ROOMS (tests/rooms.py): {sorted(homeless)}"
    empty = {room for room in ROOMS if not any(name.split(".")[1:2] == [room] for name in SOURCES)}
    assert not empty, f"rooms without a file: {sorted(empty)}"


def test_the_house_is_small_enough_to_be_seen() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 6
    assert sum(1 for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__") <= 14
    for folder, _, files in os.walk(PACKAGE, followlinks=True):
        count = sum(file.endswith(".py") for file in files)
        assert count <= 16, f"{folder} has {count} Python files: make rooms in it"


def test_files_import_only_from_rooms_above_and_from_the_rooms_themselves() -> None:
    wrong = []
    num_edges = 0
    for name, path in SOURCES.items():
        if name == "vzoom":
            continue  # its names are loaded when they are first used
        for target, line in _imports(name, path):
            room = _room_of(target)
            num_edges += bool(room)
            if room and RANK[room] > RANK[_room_of(name)]:
                wrong.append(f"{name}:{line} imports {target}, a room below its own")
            # vzoom.room.file.name; the kernels have no __init__.py
            inside = (
                target.count(".") > 2 and room != "kernels"
            )  # vzoom.room.file.name; the kernels have no __init__.py
            if room and room != _room_of(name) and inside:
                wrong.append(f"{name}:{line} imports {target}: take it from the room, vzoom/{room}/__init__.pyi")
    assert num_edges > 30, "the walk sees too few imports to mean anything"
    assert not wrong, "\n".join(wrong)


def test_the_rooms_table_of_the_docs_is_todays() -> None:
    text = PAGE.read_text()
    assert page_with(text) == text, "run: python tests/rooms.py"


@pytest.mark.parametrize("room", [room for room in ROOMS if (PACKAGE / room / "__init__.pyi").exists()])
def test_a_room_has_what_it_names(room: str) -> None:
    module = importlib.import_module(f"vzoom.{room}")
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name) is getattr(module, name)


def test_modules_do_not_import_each_other_in_circles() -> None:
    edges = {
        name: {t if t in SOURCES else t.rpartition(".")[0] for t, _ in _imports(name, path)} - {"vzoom", name}
        for name, path in SOURCES.items()
        if name != "vzoom"
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(edges.get(name, ())):
                if not name.startswith(f"{target}."):  # a file may use its own package, once that is loaded
                    visit(target, (*trail, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def _python(code: str, *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def test_import_needs_no_torch_and_no_extra() -> None:
    done = _python("import sys, vzoom; print(vzoom.__version__, *sorted(set(sys.modules) & {'torch', 'numpy', 'av'}))")
    assert done.stdout.split() == [vzoom.__version__], done.stdout + done.stderr


def test_modules_import_without_the_extras() -> None:
    # Files whose whole purpose is an extra are loaded by their op or reader when the extra is there.
    names = [n for n in SOURCES if n.rpartition(".")[2] not in ("triton_impl", "dali", "plugin", "__main__")]
    code = f"""
import importlib, importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        caller = sys._getframe(1)
        while caller and "importlib" in caller.f_code.co_filename: caller = caller.f_back
        if name.partition(".")[0] in {EXTRAS!r} and caller and caller.f_globals.get("__name__", "").startswith("vzoom"):
            raise ImportError(f"{{caller.f_globals['__name__']}} imports {{name}} at its top level")
sys.meta_path.insert(0, Refuse())
for name in {names!r}:
    importlib.import_module(name)
print("ok", len({names!r}))
"""
    done = _python(code)
    assert done.stdout.split()[:1] == ["ok"], done.stderr[-2000:]


def test_public_names() -> None:
    assert dir(vzoom) == sorted(vzoom.__all__)
    for name in vzoom.__all__:
        assert getattr(vzoom, name) is getattr(vzoom, name)
    with pytest.raises(AttributeError, match="No vzoom attribute zoom"):
        vzoom.zoom  # noqa: B018


def test_the_extension_has_the_version_of_the_package() -> None:
    extension = importlib.import_module("_vzoom")
    assert extension.__version__ == vzoom.__version__


def _transformers_internals(source: str) -> set[str]:
    """What a file's source uses of transformers' insides, as dotted names."""
    (folder,) = importlib.util.find_spec("transformers").submodule_search_locations  # type: ignore[union-attr,misc]

    def is_inside(name: str) -> bool:
        _, part, *_ = (*name.split("."), "")
        is_module = Path(folder, part).is_dir() or Path(folder, f"{part}.py").is_file()
        return bool(part) and part != "utils" and (is_module or (part.startswith("_") and not part.startswith("__")))

    named: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            named |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            named.add(ast.unparse(node))
            if node.attr in MODEL_INTERNALS:
                named.add(f"transformers._model.{node.attr}")
    return {name for name in named if name.partition(".")[0] == "transformers" and is_inside(name)}


@pytest.mark.parametrize(
    ("source", "num_internals"),
    [
        ("from transformers import AutoConfig", 0),
        ("import transformers\ntransformers.utils.logging.disable_progress_bar(), transformers.__version__", 0),
        ("import transformers.masking_utils", 1),
        ("from transformers import modeling_utils, _lazy", 2),
        ("from transformers.models.qwen2_vl.modeling_qwen2_vl import x", 1),
        ("import transformers\ntransformers.models", 1),
        ("model.rope_deltas = model.model.get_rope_index(ids)", 2),
    ],
)
def test_the_walk_sees_the_insides_of_transformers(source: str, num_internals: int) -> None:
    assert len(_transformers_internals(source)) == num_internals


def test_transformers_internals_are_used_in_few_places() -> None:
    found = {name: used for name, path in SOURCES.items() if (used := _transformers_internals(path.read_text()))}
    homes = {
        name: next((home for home in INSIDE_TRANSFORMERS if f"{name}.".startswith(f"{home}.")), None) for name in found
    }
    assert not (strays := {name: found[name] for name, home in homes.items() if home is None}), (
        f"move this to vzoom/models/, or add the file to INSIDE_TRANSFORMERS: {strays}"
    )
    assert set(homes.values()) == set(INSIDE_TRANSFORMERS), "some of these no longer need to be named"


def test_transformers_does_not_take_our_kernels_for_its_own() -> None:
    """In a clone `kernels` can be found as a namespace; with an __init__.py transformers would run it."""
    code = """
import sys
from packaging.version import InvalidVersion
from transformers.utils import import_utils
try:
    available = import_utils.is_kernels_available()
except InvalidVersion:  # transformers up to 5.3: found, but of no version
    available = False
print(available, getattr(sys.modules.get("kernels"), "__file__", None))
"""
    done = _python(code, cwd=ROOT)
    assert done.stdout.split() == ["False", "None"], done.stdout + done.stderr
    assert not (PACKAGE / "kernels" / "__init__.py").exists()


def test_declared_lower_ends_are_what_test_oldest_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["gpu"]
    lower = dict(entry.partition(",")[0].split(">=") for entry in declared)
    lines = (ROOT / ".ci" / "oldest.txt").read_text().splitlines()
    oldest = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert set(lower) == set(oldest)
    for name, version in oldest.items():
        assert (version + ".").startswith(lower[name] + "."), f"{name}: {version} in oldest.txt, {lower[name]} declared"


def test_the_makefile_installs_the_newest_torch_that_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    above = next(e.partition("<")[2] for e in project["dependencies"] if e.startswith("torch>="))
    major, minor = above.split(".")
    assert f"TORCH ?= {major}.{int(minor) - 1}." in (ROOT / "Makefile").read_text()


def test_only_the_protocol_spells_its_tags() -> None:
    """Not in code, not in a docstring, not in a comment: a change of the grammar is a change of one room."""
    names = "|".join(tag.strip("</>") for tag in TAGS)
    spelled = re.compile(rf"</?(?:{names})>|video_zoom")
    found = {name: spelled.findall(path.read_text()) for name, path in SOURCES.items()}
    assert {_room_of(name) for name, tags in found.items() if tags} == {"protocol"}, {
        name: tags for name, tags in found.items() if tags and _room_of(name) != "protocol"
    }
