"""The fenced blocks of a Markdown page: what kind each is, and whether it is run.

    ```python      runs; the Python blocks of a page share one namespace, from top to bottom
    ```shell       runs in bash (also sh, bash; of a console block the lines that begin with "$ ")
    ```text        behind a block that runs: what the block prints, word for word

`<!-- not run: REASON -->` on the line before a block says why it is not. A block without a language that looks like
Python or like commands is an error: either it runs, or its page says why not.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["python", "shell", "text", "other"]

_FENCE = re.compile(r"^ *(`{3,}|~{3,}) *([^\s`]*)[^`]*$")
_NOT_RUN = re.compile(r"^<!-- *not run: *(.*?) *-->$")
_KINDS: dict[str, Kind] = {
    "python": "python", "py": "python", "shell": "shell", "sh": "shell", "bash": "shell", "console": "shell",
    "text": "text",
}  # fmt: skip
_WORDS = "vzoom|make|pip|python3?|pytest|accelerate|export|cd|git|mkdir|import|from|with|for|def|class"
_LOOKS_LIKE_CODE = re.compile(rf"^(\$ |({_WORDS}) )|^\w+ = ")


@dataclass(frozen=True)
class Block:
    """A fenced block. line: of the page, from 1, of the first line of `code`. reason: why it is not run, if so."""

    page: Path
    line: int
    language: str
    code: str
    reason: str | None
    expected: str | None = None

    @property
    def kind(self) -> Kind:
        return _KINDS.get(self.language, "other")

    @property
    def runs(self) -> bool:
        return self.kind in ("python", "shell") and self.reason is None

    @property
    def is_unmarked_code(self) -> bool:
        """Whether a reader would run it, although the page does not say what it is."""
        return self.language in ("", "text") and self.reason is None and bool(_LOOKS_LIKE_CODE.match(self.code))

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, from top to bottom.

    Raises:
        ValueError: for a fence that is not closed, a marker without a reason, or one that no block follows.
    """
    lines = page.read_text().splitlines()
    blocks: list[Block] = []
    reason: str | None = None
    before: Block | None = None  # the last block, while only blank lines follow it
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if marker := _NOT_RUN.match(line.strip()):
            reason, before = marker[1], None
            if not reason:
                raise ValueError(f"{page.name}:{number}: say why the block is not run")
            continue
        fence = _FENCE.match(line)
        if fence is None:
            if reason is not None:
                raise ValueError(f"{page.name}:{number}: 'not run' must be on the line before a block")
            if line.strip():
                before = None
            continue
        first = number
        while number < len(lines) and not re.fullmatch(rf" *{fence[1]}{fence[1][0]}* *", lines[number]):
            number += 1
        if number == len(lines):
            raise ValueError(f"{page.name}:{first}: this block is never closed")
        block = Block(page, first + 1, fence[2].lower(), "\n".join(lines[first:number]) + "\n", reason)
        number, reason = number + 1, None
        if block.kind == "text" and before is not None and before.runs:
            blocks[-1] = Block(before.page, before.line, before.language, before.code, None, expected=block.code)
            before = None
            continue
        blocks.append(block)
        before = block
    return blocks


def commands_of(block: Block) -> list[list[str]]:
    """The arguments of each `vzoom` in a shell block; of `-m vzoom`, as launchers start it, too."""
    found = []
    code = block.code.replace("\\\n", " ")
    for line in code.splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= set("();<>|&"):
                found.append(command)
                command = []
            else:
                command.append(word)
    return [arguments for command in found if (arguments := _of_vzoom(command)) is not None]


def _of_vzoom(command: list[str]) -> list[str] | None:
    words = list(command)
    while words and ("=" in words[0] or words[0] == "$"):  # NAME=value before the command; the prompt of a console
        words = words[1:]
    if words[:1] == ["vzoom"]:
        return words[1:]
    for module, prefix in (("vzoom", []), ("vzoom.train", ["train"])):
        for at in range(len(words) - 1):
            if words[at : at + 2] == ["-m", module]:
                return prefix + words[at + 2 :]
    return None
