"""Runs one command and turns what it raises into a line for the user and an exit code."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence

from ..interrupts import run_until_signal
from .exit_codes import ExitCode

_OUT_OF_MEMORY = (
    "the GPU's memory is full: lower --max-total-tokens, --glance-max-frames or --max-pixels, or name a smaller --model"
)
_RESUMES = "what was done so far is kept, and the same command resumes"
_OF_THE_DISK = {
    errno.ENOSPC: f"make room on the disk; {_RESUMES}",
    errno.EDQUOT: f"make room in your quota; {_RESUMES}",
    errno.EFBIG: f"raise the limit on the size of files; {_RESUMES}",
    errno.EIO: f"the disk fails, or is full; {_RESUMES}",
    errno.EROFS: "the disk may not be written: name another folder",
    errno.EACCES: "you may not use it: change its permissions, or name another",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `vzoom`; None takes those of this process.

    Returns:
        Its exit code, see `ExitCode`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter shows "?" instead of failing
    args = argparse.Namespace(command="", resumes=False)  # until they are parsed

    def stopped(by: str) -> str:
        again = ": run the same command again to resume" if getattr(args, "resumes", False) else ""
        return f"{f'vzoom {args.command}'.strip()}: stopped by {by}{again}"

    return run_until_signal(lambda: _run(argv, args), line=stopped, is_program=argv is None)


def _run(argv: Sequence[str] | None, args: argparse.Namespace) -> int:
    from .parser import build_parser  # here: Ctrl-C is answered from the first moment on

    build_parser().parse_args(argv, args)
    try:
        code: int = args.run(args)
        sys.stdout.flush()  # here, so that a closed pipe is noticed while it can be answered
        return code
    except BrokenPipeError:
        # The reader left: what is still buffered must not fail again when the interpreter flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE
    except Exception as error:
        if args.traceback:
            raise
        match error:
            case ValueError() | OSError():
                return _refused(args.command, _one_line(error))
            case ImportError():
                return _refused(args.command, f"{_one_line(error)} (`vzoom doctor` says what is missing)")
            case RuntimeError() if type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch here
                return _refused(args.command, _OUT_OF_MEMORY)
        print(
            f"vzoom {args.command}: unexpected {type(error).__name__}: {_one_line(error)} "
            "(`vzoom --traceback …` shows where it came from: please report it)",
            file=sys.stderr,
        )
        return ExitCode.UNEXPECTED


def _refused(command: str, why: str) -> ExitCode:
    print(f"vzoom {command}: {why}", file=sys.stderr)
    return ExitCode.WRONG_USE


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        mend = _OF_THE_DISK.get(error.errno or 0, "")
        return f"{os.fsdecode(error.filename)}: {error.strerror}{f': {mend}' if mend else ''}"
    return " ".join(str(error).split()) or type(error).__name__
