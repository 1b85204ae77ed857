"""The workbench of the ops.

python -m vzoom.kernels list             which implementation of each op runs here, and why
python -m vzoom.kernels bench OP         check one op's numbers, then time it beside its floor and the torch reference
python -m vzoom.kernels scaffold NAME    write the files of a new op into the source tree (docs/adding-a-kernel.md)
"""

from __future__ import annotations

import argparse
import sys

import torch

from .bench_op import DTYPES, bench_op
from .registry import IMPLS, OPS, chosen
from .scaffold import NoSourceTree, scaffold


def main(arguments: list[str] | None = None) -> int:
    """Run the command. 0: done; 1: an op's numbers are wrong; 2: it cannot be done here."""
    options = _parser().parse_args(arguments)
    if options.command == "list":
        for op, (impl, why) in chosen(options.device).items():
            print(f"{op:18} {impl:10} {why}")
        return 0
    if options.command == "scaffold":
        try:
            made = scaffold(options.name)
        except (NoSourceTree, ValueError) as refused:
            print(f"python -m vzoom.kernels scaffold: {refused}", file=sys.stderr)
            return 2
        print("\n".join(f"wrote {path}" for path in made))
        print("next: docs/adding-a-kernel.md; `make test` builds the C++ and runs the checks")
        return 0
    try:
        for row in bench_op(
            options.op,
            impl=options.impl,
            device=torch.device(options.device),
            dtypes=options.dtype or ("bfloat16", "float32"),
        ):
            print(row.line(), flush=True)
    except AssertionError as wrong:
        print(f"the numbers are wrong, so nothing is timed: {wrong}", file=sys.stderr)
        return 1
    except RuntimeError as missing:
        print(f"python -m vzoom.kernels bench: {missing}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vzoom.kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    here = "cuda" if torch.cuda.is_available() else "cpu"
    listing = commands.add_parser("list", help="which implementation of each op runs here, and why")
    bench = commands.add_parser("bench", help="check one op's numbers, then time it")
    bench.add_argument("op", choices=OPS, metavar="OP", help=", ".join(OPS))
    bench.add_argument("--impl", choices=("auto", *IMPLS), default="auto", help="what is timed (default: auto)")
    bench.add_argument("--dtype", choices=tuple(DTYPES), action="append", help="default: bfloat16 and float32")
    for command in (listing, bench):
        command.add_argument("--device", choices=("cpu", "cuda"), default=here, help=f"default: {here}")
    new = commands.add_parser("scaffold", help="write the files of a new op into the source tree")
    new.add_argument("name", metavar="NAME", help="of the op, such as top_k")
    return parser


if __name__ == "__main__":
    sys.exit(main())
