"""Wheel, sdist, plain and editable installs, each used from somewhere else. Slow: each compiles the extension.

Builds run without isolation, on the build tools that the test extra brings, so nothing is fetched. Only the sdist is
built with CUDA (where nvcc is found), as plain `pip install` does it; the others ask whether files get to their places.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NOT_SOURCE = (".git", ".venv*", "build", "dist", "__pycache__", ".*_cache", ".hypothesis", ".benchmarks", "vzoom-demo")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
BUILD = ("--no-deps", "--no-build-isolation")
NO_CUDA = ("-C", "cmake.define.VZOOM_CUDA=OFF")


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """Standard output of a command that must succeed. The tree and the environment of the tests stay out of its way."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PIP_CONSTRAINT")} | env
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=clean, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


class Environment:
    """An empty virtual environment that sees torch and the others, but none of vzoom."""

    def __init__(self, folder: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
        self.python, self.bin = folder / "bin" / "python", folder / "bin"
        scheme = {"base": str(folder), "platbase": str(folder)}
        self.site = Path(sysconfig.get_path("purelib", vars=scheme))
        # What a .pth adds is searched for modules, but the .pth files in it (an editable vzoom's) are not run.
        others = self.site.parents[2] / "others"
        others.mkdir()
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if "vzoom" not in entry.name:
                (others / entry.name).symlink_to(entry)
        (self.site / "others.pth").write_text(f"{others}\n")

    def install(self, *what: str | Path, cwd: Path) -> None:
        run(*PIP, "--python", self.python, "install", *BUILD, *NO_CUDA, *what, cwd=cwd)

    def ask(self, code: str, cwd: Path) -> list[str]:
        return run(self.python, "-c", code, cwd=cwd).split()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the tree, as git would make it: the symlink stays a symlink, nothing built lies in it."""
    clone = tmp_path_factory.mktemp("clone") / "vzoom"
    shutil.copytree(ROOT, clone, symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    return clone


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(*PIP, "wheel", *BUILD, *NO_CUDA, "-w", folder, tree, cwd=folder)
    return next(folder.glob("vzoom-*.whl"))


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    code = f"from scikit_build_core.build import build_sdist; print(build_sdist({str(folder)!r}))"
    run(sys.executable, "-c", code, cwd=tree)
    return next(folder.glob("vzoom-*.tar.gz"))


def sources(folder: Path) -> set[str]:
    """Paths of the files of `folder`, through symlinks, without caches."""
    found = (Path(at, f) for at, _, files in os.walk(folder, followlinks=True) for f in files)
    return {str(p.relative_to(folder.parent)) for p in found if "__pycache__" not in p.parts}


def wheel_files(path: Path) -> set[str]:
    return {n for n in zipfile.ZipFile(path).namelist() if ".dist-info/" not in n and not n.endswith("/")}


def test_wheel_holds_the_package_and_nothing_else(tree: Path, wheel: Path) -> None:
    names = wheel_files(wheel)
    extensions = {n for n in names if n.startswith("_vzoom.")}
    assert len(extensions) == 1
    assert names - extensions == sources(tree / "vzoom")
    assert {n for n in names if n.startswith("vzoom/kernels/")}, "the build did not follow the symlink"
    assert any(n.startswith("vzoom/synthetic/embedded/") for n in names)
    configs = {f"vzoom/train/accelerate_configs/{name}.yaml" for name in ("cpu2", "fsdp2", "single", "zero3")}
    assert configs <= names, "`vzoom train … --launch fsdp2` finds its config in the wheel"


def test_sdist_holds_every_source_once_and_builds_the_same_wheel(
    tree: Path, wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    with tarfile.open(sdist) as archive:
        names = {n.name.partition("/")[2] for n in archive.getmembers() if n.isfile()}
    wanted = sources(tree / "vzoom") | sources(tree / "csrc") | sources(tree / "tests") | sources(tree / "bench")
    assert wanted <= names, sorted(wanted - names)
    assert {"CMakeLists.txt", "pyproject.toml", "LICENSE", "README.md"} <= names
    assert not {n for n in names if n.startswith("kernels/")}
    run(*PIP, "wheel", *BUILD, "-w", tmp_path, sdist, cwd=tmp_path)
    built = next(tmp_path.glob("vzoom-*.whl"))
    assert wheel_files(built) == wheel_files(wheel)
    env = Environment(tmp_path / "env")
    env.install(built, cwd=tmp_path)
    has_cuda = env.ask("import _vzoom; print(bool(_vzoom.cuda_ops))", tmp_path)
    assert has_cuda == [str(shutil.which("nvcc") is not None)]


WHERE = "import vzoom, vzoom.kernels.registry as r, _vzoom; print(vzoom.__file__, r.__file__, _vzoom.__file__)"


def inside(paths: Sequence[str], folder: Path) -> bool:
    return all(Path(p).resolve().is_relative_to(folder.resolve()) for p in paths)


def test_wheel_works_from_elsewhere(wheel: Path, tree: Path, tmp_path: Path) -> None:
    env = Environment(tmp_path / "env")
    env.install(wheel, cwd=tmp_path)
    assert inside(env.ask(WHERE, tmp_path), env.site)
    done = json.loads(run(env.bin / "vzoom", "demo", "--json", cwd=tmp_path))
    assert done["correct"] is True
    assert done["zooms"]
    # In a clone Python finds the source tree first; the installed extension still belongs to it.
    package, kernels, extension = env.ask(WHERE, tree)
    assert inside([package, kernels], tree)
    assert inside([extension], env.site)
    assert "sft" in run(env.python, "-m", "vzoom.train", "--help", cwd=tree)


def test_plain_install_of_the_tree_from_elsewhere(tree: Path, tmp_path: Path) -> None:
    env = Environment(tmp_path / "env")
    env.install(tree, cwd=tmp_path)
    assert inside(env.ask(WHERE, tmp_path), env.site)
    assert run(env.bin / "vzoom", "--version", cwd=tmp_path).strip().startswith("vzoom ")


def test_editable_install_reads_the_tree(tree: Path, tmp_path: Path) -> None:
    env = Environment(tmp_path / "env")
    env.install("-e", tree, cwd=tmp_path)
    package, kernels, extension = env.ask(WHERE, tmp_path)
    assert inside([package, kernels], tree)
    assert inside([extension], env.site)
    path = env.ask("import sys; print(*sys.path)", tmp_path)
    assert str(tree.parent) not in path, "the folder above the clone must not be importable"
    added = tree / "vzoom" / "added_later.py"
    added.write_text("VALUE = 41\n")
    try:
        assert env.ask("import vzoom.added_later as a; print(a.VALUE)", tmp_path) == ["41"]
    finally:
        added.unlink()


def test_editable_install_that_rebuilds(tree: Path, tmp_path: Path) -> None:
    env = Environment(tmp_path / "env")
    env.install("-C", "editable.rebuild=true", "-C", "editable.verbose=false", "-e", tree, cwd=tmp_path)
    ask = "import _vzoom; print(_vzoom.__doc__)"
    before = env.ask(ask, tmp_path)
    bindings = tree / "csrc" / "bindings.cpp"
    text = bindings.read_text()
    opening = text.index("{", text.index("PYBIND11_MODULE(")) + 1
    bindings.write_text(f'{text[:opening]} m.doc() = "rebuilt_on_import"; m.attr("rebuilt") = 1;{text[opening:]}')
    try:
        assert env.ask("import _vzoom; print(_vzoom.rebuilt)", tmp_path) == ["1"]
    finally:
        bindings.write_text(text)
    assert env.ask(ask, tmp_path) == before
