"""Every Python and shell block of README.md and docs/ runs, or its page says why not; and what a page names exists.

A page's blocks run from top to bottom in one folder, which `docs_folder.py` fills and which says what stands in for
what no test has: the embedded model for checkpoints of the hub, a rendered video for yours, few questions for many.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from docs_blocks import Block, blocks_of, commands_of
from docs_folder import expert, fill, stand_ins
from rooms import ROOMS

from vzoom.cli.parser import build_parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md")]
PAGES += sorted((ROOT / "docs").glob("**/*.md"))
PAGES = [page for page in PAGES if not {"_build", "api"} & set(page.relative_to(ROOT).parts)]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
TIMEOUT_SECONDS = 300
HARDLY_ROOMS = {"__main__.py", "kernels/"}  # kernels/ is at the top of the tree
_LINK = re.compile(r"\]\(([^)\s]+)\)")


RUN = [page for page in PAGES if any(block.runs for block in blocks_of(page))]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    fill(folder)
    return folder


@pytest.mark.parametrize("page", RUN, ids=[str(page.relative_to(ROOT)) for page in RUN])
def test_the_code_of_a_page_runs(page: Path, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(filled, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with expert() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for block in blocks_of(page):
            if block.runs:
                code = stand_ins(block)
                printed = run_python(block, code, namespace) if block.kind == "python" else run_shell(block, code)
                if block.expected is not None:
                    assert printed.strip() == block.expected.strip(), f"{block.place} prints something else"


def run_python(block: Block, code: str, namespace: dict[str, Any]) -> str:
    """What the block prints. Its lines have their numbers of the page, so that a traceback shows the page."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * (block.line - 1) + code, str(block.page), "exec"), namespace)
    return printed.getvalue()


def run_shell(block: Block, code: str) -> str:
    """What the block prints to stdout. It stops at the first command that fails; stderr shows each as it begins."""
    if block.language == "console":
        code = "".join(f"{line[2:]}\n" for line in code.splitlines() if line.startswith("$ "))
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", code], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    if done.returncode:
        pytest.fail(
            f"{block.place} ends with exit code {done.returncode}:\n\n{numbered(code, block.line)}\n"
            f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}",
            False,
        )
    return done.stdout


def numbered(code: str, first: int) -> str:
    return "\n".join(f"{number:5}  {line}" for number, line in enumerate(code.splitlines(), first))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_page_says_of_each_block_what_it_is(page: Path) -> None:
    unmarked = [block.place for block in blocks_of(page) if block.is_unmarked_code]
    assert not unmarked, f"say python or shell, or why not (<!-- not run: … -->): {', '.join(unmarked)}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_are_what_the_command_line_takes(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them, also of blocks that are not run: options exist, and nothing that is required is missing."""
    wrong = []
    for block in blocks_of(page):
        for arguments in commands_of(block) if block.kind == "shell" else ():
            try:
                build_parser().parse_args(arguments)
            except SystemExit as end:
                if end.code:  # 0: --help and --version
                    why = capsys.readouterr().err.splitlines()[-1]
                    wrong.append(f"{block.place}: vzoom {' '.join(arguments)}\n    {why}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_options_in_the_text_exist(page: Path) -> None:
    """`vzoom ask --json` in a sentence or a table: each option is one of that command's; `--json` alone, of any."""
    gone = []
    for words in quoted(page):
        named = re.findall(r"--[a-z][\w-]*", words)
        command = words.split()[1:3] if words.startswith("vzoom ") else []
        gone += [f"{words}: {name}" for name in named if name not in options_of(command) | FOREIGN_OPTIONS]
    assert not gone, f"{page.name} names options that are not there: {gone}"


@functools.cache
def _options() -> dict[tuple[str, ...], set[str]]:
    """The options of each command, by its words; all of them under ()."""
    found: dict[tuple[str, ...], set[str]] = {(): set()}

    def visit(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> None:
        found[words] = set()
        for action in parser._actions:
            found[words].update(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                for name, inner in action.choices.items():
                    visit(inner, (*words, name))
        found[()] |= found[words]

    visit(build_parser(), ("vzoom",))
    return found


def options_of(command: list[str]) -> set[str]:
    """Of `vzoom` followed by these words, as many of which name a command as do; of all commands for none."""
    words: tuple[str, ...] = ("vzoom", *command) if command else ()
    while words not in _options():
        words = words[:-1]
    return _options()[words]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in _LINK.findall(text):
        path, _, anchor = target.partition("#")
        if target.startswith(("http:", "https:", "mailto:")) or path.startswith("api/"):
            continue
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name} links to {target}, which is not there"
        if anchor and file.suffix == ".md":
            assert anchor in anchors_of(file), f"{page.name} links to {target}: {file.name} has no such heading"


def anchors_of(page: Path) -> set[str]:
    """The targets that GitHub and MyST make of a page's headings."""
    headings = re.findall(r"^#{1,6} +(.+?) *$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


_IN_BACKTICKS = re.compile(r"`([^`\n]+)`")
_OURS = re.compile(r"(?:tests|bench|docs|vzoom|kernels|csrc|examples|\.ci)/[\w./-]*\w/?")
_DOTTED = re.compile(r"(vzoom(?:\.[A-Za-z_]\w*)+)")
_WHERE = re.compile(r"^(?:<br>)?`([\w/.]+\.py)` · (.*)$", re.MULTILINE)
# Of pip, pytest, accelerate, lmms-eval, and the programs in bench/, examples/ and tests/.
FOREIGN_OPTIONS = {
    "--benchmark-only", "--multi_gpu", "--batch_size", "--gen_kwargs", "--model_args", "--peers", "--python-vllm",
    "--python-hf", "--systems", "--record", "--save", "--question", "--no-deps", "--no-build-isolation",
}  # fmt: skip
NOT_NAMES = ("vzoom.json", "vzoom.format")  # a file, and a key in a file
NOT_THERE = re.compile(r"kernels/__init__\.py|docs/_build|.*top_k.*")  # must never be; is made; is an op of yours


def quoted(page: Path) -> list[str]:
    return _IN_BACKTICKS.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_and_names_in_the_text_exist(page: Path) -> None:
    gone = []
    for words in quoted(page):
        path = words.split(" ")[0]
        if _OURS.fullmatch(path) and not NOT_THERE.fullmatch(path) and not (ROOT / path).exists():
            gone.append(words)
        if (dotted := _DOTTED.match(words)) and dotted[1] not in NOT_NAMES and not resolves(dotted[1]):
            gone.append(words)
    assert not gone, f"{page.name} names what is not there: {gone}"


def resolves(dotted: str) -> bool:
    """Whether vzoom.room.Name.attribute, or a prefix that is a module and the names in it, is there."""
    first, *rest = dotted.split(".")
    found: Any = importlib.import_module(first)
    for name in rest:
        try:
            found = getattr(found, name)
        except AttributeError:
            try:
                found = importlib.import_module(f"{found.__name__}.{name}")
            except (AttributeError, ModuleNotFoundError):
                return False
    return True


def test_a_requests_life_names_the_code_of_today() -> None:
    page = ROOT / "docs" / "request-life.md"
    places = _WHERE.findall(page.read_text())
    assert len(places) > 15
    gone = [
        f"{name} in {path}"
        for path, names in places
        for name in _IN_BACKTICKS.findall(names)
        if not (ROOT / path).exists() or not re.search(rf"\b{name}\b", (ROOT / path).read_text())
    ]
    assert not gone, f"docs/request-life.md names what is not there: {gone}"


def test_the_tree_of_the_readme_is_the_tree() -> None:
    text = (ROOT / "README.md").read_text()
    tree = text[text.index("## The tree") :].split("```")[1]
    package = re.findall(r"^  (\S+)", tree, flags=re.MULTILINE)
    top = [name for line in re.findall(r"^(\w.*)", tree, flags=re.MULTILINE) for name in line.split("  ") if name]
    assert {name for name in package if not (ROOT / "vzoom" / name).exists()} == set()
    rooms = {f"{room}/" if (ROOT / "vzoom" / room).is_dir() else f"{room}.py" for room in ROOMS} - HARDLY_ROOMS
    assert rooms <= set(package), f"rooms that the README does not name: {sorted(rooms - set(package))}"
    assert all((ROOT / name).exists() for name in top if name.endswith(("/", ".txt", ".toml")))


def test_the_picture_is_that_of_the_run(tmp_path: Path) -> None:
    drawn = tmp_path / "zoom.svg"
    command = [sys.executable, str(ROOT / "docs" / "picture.py"), "--out", str(drawn)]
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_SECONDS)
    assert words_of(drawn) == words_of(ROOT / "docs" / "images" / "zoom.svg"), "run: python docs/picture.py"


def words_of(svg: Path) -> tuple[list[str], int]:
    """The text of a picture, and how many frames it shows. Raises if it is not well-formed XML."""
    root = ElementTree.parse(svg).getroot()
    texts = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]
    return texts, len(list(root.iter("{http://www.w3.org/2000/svg}image")))


def test_the_reader_of_commands(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\nX=1 vzoom ask v.mp4 'Who?' --json | jq .  # how\nvzoom a || [ $? = 1 ]\n"
        "accelerate launch -m vzoom.train sft \\\n  tiny\nls vzoom\n```\n"
    )
    [block] = blocks_of(page)
    assert commands_of(block) == [["ask", "v.mp4", "Who?", "--json"], ["a"], ["train", "sft", "tiny"]]


def test_the_reader_of_blocks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nx = 1\nprint(x)\n```\n\n```text\n1\n```\n<!-- not run: costs money -->\n```sh\nrm -r x\n```\n"
        "```\nvzoom demo\n```\n````md\n```python\n1 / 0\n```\n````\n"
    )
    first, second, third, fourth = blocks_of(page)
    assert (first.runs, first.line, first.code, first.expected) == (True, 2, "x = 1\nprint(x)\n", "1\n")
    assert (second.kind, second.runs, second.reason) == ("shell", False, "costs money")
    assert third.is_unmarked_code
    assert not third.runs
    assert fourth.kind == "other"
    for wrong in ("```python\nx = 1\n", "<!-- not run: -->\n```sh\nx\n```\n", "<!-- not run: y -->\ntext\n"):
        page.write_text(wrong)
        with pytest.raises(ValueError, match=r"page\.md:"):
            blocks_of(page)
