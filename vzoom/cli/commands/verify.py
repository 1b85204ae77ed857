"""`vzoom verify`: whether splicing is exact for a checkpoint on this machine."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import Style, print_json, printable

if TYPE_CHECKING:
    from vzoom.cli.exactness import Verdict

_FAILED = 1
_SEED = 4

_EXAMPLES = """examples:
  vzoom verify ./checkpoint
  vzoom verify Qwen/Qwen2.5-VL-7B-Instruct --device cuda --dtype bfloat16 --video match.mp4
  vzoom verify embedded --json | jq .ratio
"""
_DESCRIPTION = """\
Replay a conversation through the engine, glance and zooms, and compare the logits behind every
sampled token with those of one prefill of the same tokens by stock transformers.

float32: passes where all positions are equal and the largest difference is at most 1e-5 of the
largest logit. bfloat16, float16: the error of the splice against a float32 run of the same weights
may be twice the error of the stock run. For that the weights become float32 once the other runs are
done: 4 bytes a parameter on the device. Exit code 0 where it passes, 1 where it does not."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "verify",
        help="check that splicing is exact for a checkpoint on this machine",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help='a folder, a hub id, or "embedded"')
    parser.add_argument("--zooms", type=int, default=4, metavar="N", help="how many zooms (default: 4)")
    parser.add_argument("--video", metavar="FILE", help="a video of yours (default: one is rendered)")
    parser.add_argument(
        "--device", default="auto", help='"auto" (default: CUDA where there is one), "cpu", "cuda", "cuda:1"'
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="auto (default): float32 on the CPU, the checkpoint's own on a GPU",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.zooms < 0:
        raise ValueError(f"--zooms must be 0 or more, got {args.zooms}")
    if args.model[:1] in "./~" and not Path(args.model).is_dir():
        raise ValueError(f"{args.model}: no such folder")
    from vzoom.video import open_video

    if args.video is not None:
        open_video(args.video).close()  # a file that is no video shows before a model is loaded
    import torch
    import transformers

    from vzoom.cli.exactness import verify

    transformers.utils.logging.disable_progress_bar()
    progress = _Progress()
    with tempfile.TemporaryDirectory(prefix="vzoom-verify-") as folder:
        video = args.video or _rendered(Path(folder))
        try:
            verdict = verify(
                args.model, video, device=args.device, dtype=args.dtype, num_zooms=args.zooms, progress=progress
            )
        except torch.OutOfMemoryError as error:
            raise ValueError("the GPU's memory is full: fewer --zooms, a smaller --video, or --device cpu") from error
        finally:
            progress.end()
    if args.json:
        print_json(summary(verdict))
    else:
        _show(verdict, Style(sys.stdout))
    return 0 if verdict.passed else _FAILED


def _rendered(folder: Path) -> Path:
    from vzoom.synthetic import config_for, make_video, render

    return render(make_video(_SEED, config_for("which")), folder / "world.mp4")


def summary(verdict: Verdict) -> dict[str, Any]:
    """The object of `--json`. A number that is not finite is null."""
    found = {**vars(verdict), "ratio": verdict.ratio, "limit": verdict.limit, "passed": verdict.passed}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}


def _show(verdict: Verdict, style: Style) -> None:
    positions = "equal to transformers'" if verdict.same_positions else style("NOT equal to transformers'", "red")
    rows = [
        ("model", f"{printable(verdict.model)}, {verdict.dtype} on {verdict.device}"),
        ("replayed", f"glance and {verdict.num_zooms} zooms, {verdict.num_frames} frames, {verdict.num_tokens} tokens"),
        ("positions", positions),
        ("likeliest", f"equal at {verdict.equal_argmax} of {verdict.num_sampled} sampled tokens"),
        ("difference", f"{verdict.difference:.3g} at most, of a largest logit of {verdict.largest_logit:.4g}"),
    ]
    what = "difference over largest logit"
    if verdict.splice_error is not None:
        rows.append(("errors", f"splice {verdict.splice_error:.3g}, stock {verdict.stock_error:.3g} against float32"))
        what = "error of the splice over that of the stock run"
    rows.append(("ratio", f"{verdict.ratio:.3g}, {verdict.limit:g} is allowed ({what})"))
    if not math.isfinite(verdict.largest_logit):
        rows.append(("note", f"the logits are not finite: {verdict.dtype} may be too small for this model"))
    for name, text in rows:
        print(f"{name:10}  {text}")
    print(style("pass", "green") if verdict.passed else style("FAIL", "red"))


class _Progress:
    """One line on stderr that says what is being done: in place on a terminal, a line a stage elsewhere."""

    def __call__(self, stage: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{printable(stage)}", end="", file=sys.stderr, flush=True)
        else:
            print(printable(stage), file=sys.stderr, flush=True)

    def end(self) -> None:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
