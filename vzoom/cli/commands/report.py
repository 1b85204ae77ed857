"""`vzoom report`: runs of `vzoom eval` on one page, beside each other and the paper's rows."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..exit_codes import ExitCode
from ..options import add_out, cache_home, report_path, share

_EPILOG = """The page needs no network. Its frames are cut again from the videos in the folders of --cache, for some
conversations of each outcome; without their videos the page has none.

examples:
  vzoom report runs/zoom runs/uniform --out report.html
  vzoom report runs/lvbench-* --cache ./lvbench --out lvbench.html
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "report",
        help="show runs of `vzoom eval` on one page",
        description="Show runs of `vzoom eval` on one page, beside each other and the paper's rows.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders that `vzoom eval` wrote")
    page = Path("report.html")
    add_out(parser, f"an HTML file (default: {page})", type=report_path, default=page, metavar="FILE")
    share(parser, "--cache", action="append", default=[])
    parser.add_argument("--items", type=int, metavar="N", help="show at most N conversations of each benchmark")
    parser.add_argument("--frames", type=int, metavar="N", help="show at most N of these with frames")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Run the command."""
    from vzoom.eval import page

    for folder in args.cache:
        if not folder.is_dir():
            raise ValueError(f"--cache {folder}: no such folder")
    limits = {"most_items": args.items, "most_frames": args.frames}
    said = {name: value for name, value in limits.items() if value is not None}
    text = page(args.runs, roots=[*args.cache, *_own_caches()], **said)
    args.out.write_text(text, encoding="utf-8")
    print(args.out)
    return ExitCode.OK


def _own_caches() -> list[Path]:
    """Where `vzoom eval` renders videos if nobody names a --cache."""
    return sorted(path for path in cache_home().glob("*") if path.is_dir()) if cache_home().is_dir() else []
