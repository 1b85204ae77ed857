"""The command line: `vzoom ask`, `data`, `demo`, `distill`, `doctor`, `eval`, `reflect`, `report`, `verify`, `world`.

Nothing heavy is imported early.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from .parser import build_parser

_USER_ERROR = 2  # argparse's own code for a wrong command line
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_BROKEN_PIPE = 141  # 128 + SIGPIPE
_OUT_OF_MEMORY = (
    "the GPU's memory is full: lower --max-total-tokens, --glance-frames or --max-pixels, or name a smaller --model"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (a wrong answer or a failed check), 2 (wrong use), 3 (no GPU)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter shows "?" instead of failing
    try:
        args = build_parser().parse_args(argv)
        try:
            code: int = args.run(args)
            sys.stdout.flush()  # here, so that a closed pipe is noticed while it can be answered
        except BrokenPipeError:
            # The reader left: what is still buffered must not fail again when the interpreter flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _BROKEN_PIPE
        except (ValueError, OSError) as error:
            if args.traceback:
                raise
            print(f"vzoom {args.command}: {_one_line(error)}", file=sys.stderr)
            return _USER_ERROR
        except RuntimeError as error:
            if args.traceback or type(error).__name__ != "OutOfMemoryError":  # torch's, without importing torch here
                raise
            print(f"vzoom {args.command}: {_OUT_OF_MEMORY}", file=sys.stderr)
            return _USER_ERROR
        except ImportError as error:
            if args.traceback:
                raise
            print(f"vzoom {args.command}: {_one_line(error)} (`vzoom doctor` says what is missing)", file=sys.stderr)
            return _USER_ERROR
    except KeyboardInterrupt:
        print(file=sys.stderr)  # what was being written ends here
        return _INTERRUPTED
    return code


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
