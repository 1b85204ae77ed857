"""`vzoom verify`: whether splicing is exact for a checkpoint on this machine."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import Style, print_json, printable
from ..exit_codes import ExitCode
from ..loading import check_folder, system_text, video_of
from ..options import add_model_options, add_video, share, video_options
from ..progress import StageLine

if TYPE_CHECKING:
    from vzoom.video import VideoInput

    from ..engine_comparison import EngineComparison
    from ..exactness import Exactness

_SEED = 4

_EXAMPLES = """examples:
  vzoom verify --model ./checkpoint
  vzoom verify --model Qwen/Qwen2.5-VL-7B-Instruct --device cuda --dtype bfloat16 --video match.mp4
  vzoom verify --json | jq .ratio
"""
_DESCRIPTION = """\
Hold every tensor of the loaded model to the checkpoint's files, and look for NaN and infinity.
Then hold a conversation by the engine, with a glance and zooms, and compare the logits of every
sampled token with those of one prefill of the same tokens by stock transformers.

float32 passes if all positions are equal and the largest difference is at most 1e-5 of the
largest logit. bfloat16 and float16 pass if the splice errs at most twice what the stock run
errs, both against a float32 run of the same weights. For that the weights become float32 when
the other runs are done: 4 bytes per parameter on the device.

With --engine vllm a conversation on vLLM is held to the same on vzoom's engine instead: tokens,
what the model would have chosen, and log-probabilities (1e-4 in float32, else 0.1).
Exit code 0 if it passes, 1 if it does not."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "verify",
        help="check that splicing is exact for a checkpoint on this machine",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--num-zooms", type=int, default=4, metavar="N", help="zooms of the conversation (default: %(default)s)"
    )
    add_video(parser, "--video", metavar="FILE", help="a video of yours (default: one is rendered)")
    share(parser, "--json")
    add_model_options(parser, "the model that is checked")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Run the command."""
    if args.num_zooms < 0:
        raise ValueError(f"--num-zooms must be 0 or more, got {args.num_zooms}")
    check_folder(args.model)
    from vzoom.video import open_video

    options, own = video_options(args), None
    if args.video is not None:
        own = video_of(args.video, args.frame_rate)
        open_video(own, options, backend="pyav").close()  # what is no video shows before a model is loaded
    import torch

    from ..exactness import verify

    if args.engine != "vzoom" or args.vllm:
        return _run_on_vllm(args, own)
    progress = StageLine()
    with tempfile.TemporaryDirectory(prefix="vzoom-verify-") as folder:
        video = _rendered(Path(folder)) if own is None else own
        try:
            found = verify(
                args.model,
                video,
                device=args.device,
                dtype=args.dtype,
                revision=args.revision,
                adapter=args.adapter,
                protocol=args.protocol,
                system=system_text(args.system),
                num_zooms=args.num_zooms,
                options=options,
                progress=progress,
            )
        except torch.OutOfMemoryError as error:
            raise ValueError(
                "the GPU's memory is full: fewer --num-zooms, a smaller --video, or --device cpu"
            ) from error
        finally:
            progress.end()
    if args.json:
        print_json(summary(found))
    else:
        _show(found, Style(sys.stdout))
    return ExitCode.OK if found.passed else ExitCode.FAILED


def _run_on_vllm(args: argparse.Namespace, own: VideoInput | None) -> ExitCode:
    from vzoom.vllm import parse_settings

    from ..engine_comparison import compare_engines

    if args.engine == "vzoom":
        raise ValueError("--vllm without --engine vllm")
    progress = StageLine()
    with tempfile.TemporaryDirectory(prefix="vzoom-verify-") as folder:
        try:
            found = compare_engines(
                args.model,
                _rendered(Path(folder)) if own is None else own,
                device=args.device,
                dtype=args.dtype,
                revision=args.revision,
                adapter=args.adapter,
                num_zooms=args.num_zooms,
                options=video_options(args),
                settings=parse_settings(args.vllm),
                progress=progress,
            )
        finally:
            progress.end()
    if args.json:
        print_json(summary(found))
        return ExitCode.OK if found.passed else ExitCode.FAILED
    style = Style(sys.stdout)
    tokens = "equal" if found.same_tokens else style("NOT equal", "red")
    how = "appended to a running request" if found.appends else "each turn a request of its own"
    print(f"model       {printable(found.model)}, {found.dtype}")
    print(
        f"held        glance and {found.num_zooms} zooms, {found.num_frames} frames, {found.num_tokens} tokens; {how}"
    )
    print(f"tokens      {tokens}; {found.tokens_fed} fed by vLLM")
    print(f"likeliest   equal at {found.equal_choices} of {found.num_sampled} sampled tokens")
    print(f"difference  {found.difference:.3g} of log-probabilities at most, {found.limit:g} is allowed")
    print(style("pass", "green") if found.passed else style("FAIL", "red"))
    return ExitCode.OK if found.passed else ExitCode.FAILED


def _rendered(folder: Path) -> Path:
    from vzoom.synthetic import config_for, make_video, render

    return render(make_video(_SEED, config_for("which")), folder / "synthetic.mp4")


def summary(found: Exactness | EngineComparison) -> dict[str, Any]:
    """The object of `--json`. A number that is not finite is null."""
    own = {name: getattr(found, name) for name in ("ratio", "limit", "passed") if hasattr(found, name)}
    told = {**vars(found), **own}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in told.items()}


def _show(found: Exactness, style: Style) -> None:
    rows = [("model", f"{printable(found.model)}, {found.dtype} on {found.device}")]
    rows += _weights(found, style)
    if found.num_sampled:
        rows += _replayed(found, style)
    for name, text in rows:
        print(f"{name:10}  {text}")
    print(style("pass", "green") if found.passed else style("FAIL", "red"))


def _weights(found: Exactness, style: Style) -> list[tuple[str, str]]:
    odd = {"DIFFER from the files": found.differing_tensors, "are NOT FINITE": found.not_finite_tensors}
    told = [
        f"{len(names)} {what}: {', '.join(map(printable, names[:3]))}{', ...' if len(names) > 3 else ''}"
        for what, names in odd.items()
        if names
    ]
    if not told:
        return [("weights", f"{found.num_tensors} tensors, all as the files hold them")]
    wrong = style(f"of {found.num_tensors} tensors {'; '.join(told)}", "red")
    return [("weights", wrong), ("replayed", "nothing: the weights come first")]


def _replayed(found: Exactness, style: Style) -> list[tuple[str, str]]:
    positions = "equal to transformers'" if found.same_positions else style("NOT equal to transformers'", "red")
    rows = [
        ("replayed", f"glance and {found.num_zooms} zooms, {found.num_frames} frames, {found.num_tokens} tokens"),
        ("positions", positions),
        ("likeliest", f"equal at {found.equal_argmax} of {found.num_sampled} sampled tokens"),
        ("difference", f"{found.difference:.3g} at most, of a largest logit of {found.largest_logit:.4g}"),
    ]
    what = "difference over largest logit"
    if found.splice_error is not None:
        rows.append(("errors", f"splice {found.splice_error:.3g}, stock {found.stock_error:.3g} against float32"))
        what = "error of the splice over that of the stock run"
    rows.append(("ratio", f"{found.ratio:.3g}, {found.limit:g} is allowed ({what})"))
    if not math.isfinite(found.largest_logit):
        rows.append(("note", f"the logits are not finite: {found.dtype} may be too small for this model"))
    return rows
