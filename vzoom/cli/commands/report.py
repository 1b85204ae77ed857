"""`vzoom report`: runs of `vzoom eval` on one page, beside each other and the paper's rows."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..options import report_path

_EPILOG = """The page needs no network. Frames are cut again from the videos below --root, for some questions of each
outcome; without their videos the page has none.

examples:
  vzoom report runs/zoom runs/uniform --out report.html
  vzoom report runs/lvbench-* --root ./lvbench --out lvbench.html
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "report",
        help="show runs of `vzoom eval` on one page",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders that `vzoom eval` wrote")
    parser.add_argument(
        "--out",
        type=report_path,
        default=Path("report.html"),
        metavar="FILE",
        help="the HTML file to write (default: report.html)",
    )
    parser.add_argument("--root", type=Path, action="append", default=[], metavar="DIR", help="where the videos are")
    parser.add_argument("--items", type=int, default=400, metavar="N", help="most trajectories (default: 400)")
    parser.add_argument("--frames", type=int, default=24, metavar="N", help="of these, how many with frames")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vzoom.eval import page

    for root in args.root:
        if not root.is_dir():
            raise ValueError(f"--root {root}: no such folder")
    text = page(args.runs, roots=[*args.root, *_caches()], most_items=args.items, most_frames=args.frames)
    args.out.write_text(text, encoding="utf-8")
    print(args.out)
    return 0


def _caches() -> list[Path]:
    """Where `vzoom eval` renders videos that nobody gave a root for."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vzoom"
    return sorted(path for path in cache.glob("*") if path.is_dir()) if cache.is_dir() else []
