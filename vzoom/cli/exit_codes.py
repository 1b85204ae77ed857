"""The exit codes of `vzoom`: the only place that says what each means. docs/reference.md is made of it."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command tells the shell. `meaning` is one line for people."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    OK = 0, "the command did what it was asked; of a question: it is answered"
    FAILED = 1, "it ran, and a check failed, an answer was wrong, or work is left for another process or another run"
    WRONG_USE = 2, "it cannot run like this: a wrong option, file, model or setting, or a package that is missing"
    NO_GPU = 3, "`vzoom doctor --gpu` found no GPU"
    UNANSWERED = 4, "the conversation ended without an answer"
    UNEXPECTED = (
        70,
        "an error that vzoom does not expect: `vzoom --traceback …` shows where it came from",
    )  # EX_SOFTWARE
    # 128 + the signal's number, as shells report it
    HUNG_UP = 129, "stopped by SIGHUP: the terminal is gone"
    INTERRUPTED = 130, "stopped by Ctrl-C"
    BROKEN_PIPE = 141, "the program that read the output left"
    TERMINATED = 143, "stopped by SIGTERM"
