"""The whole command line as an argument parser. Each command adds its own part; nothing heavy is imported."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from vzoom import __version__

from .commands import ask, data, demo, distill, doctor, eval, protocol, reflect, report, synthetic, train, verify
from .exit_codes import ExitCode

_EXAMPLES = """examples:
  vzoom demo                                   render a video, ask about it, write a report
  vzoom ask match.mp4 "Who scored first?" --model zsgvivo/videozoomer --report match.html
  vzoom ask match.mp4 "Who scored first?" --json | jq .zooms
  vzoom verify --model ./checkpoint            is splicing exact for this checkpoint, on this machine?
  vzoom doctor                                 what is installed and what is missing
"""
_EXIT_CODES = "exit codes:\n" + "".join(f"  {int(code):3}  {code.meaning}\n" for code in ExitCode)


_SECRET = re.compile(r"--?(?:\w+[-_])*(?:key|token|secret|password)\b", re.IGNORECASE)


class _Parser(argparse.ArgumentParser):
    """Says no key back that somebody gives on the command line: it need not stand in a log, too."""

    def error(self, message: str) -> NoReturn:
        if found := _SECRET.search(message):
            message = (
                f"{found[0]}: no key is taken from the command line, where everybody on the machine sees it: set "
                "VZOOM_EXPERT_KEY or VZOOM_JUDGE_KEY in the environment, or …_KEY_FILE to a file that holds it"
            )
        super().error(message)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `vzoom`. What it returns has `run`, the function of the command, and `command`, its name."""
    parser = _Parser(
        prog="vzoom",
        description="A vision-language model that looks closer at a long video while it is thinking.",
        epilog=f"{_EXAMPLES}\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vzoom {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from, for bug reports")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (ask, data, demo, distill, doctor, eval, protocol, reflect, report, synthetic, train, verify):
        module.add_parser(commands)
    return parser
