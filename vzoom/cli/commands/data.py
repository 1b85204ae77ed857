"""`vzoom data show`, `check`, `import` and `mix`: conversations on disk, and their token masks."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..console import Style, note, printable
from ..exit_codes import ExitCode
from ..loading import model_path
from ..options import add_model, add_out, share

_COLOURS = {"learned": "green", "shown": "red", "fed": "dim"}

_SHOW_EXAMPLES = """examples:
  vzoom data show trajectories --index 3
  vzoom data show trajectories/part-00000.parquet --model ./checkpoint | less -R
"""
_CHECK_EXAMPLES = """examples:
  vzoom data check trajectories
  vzoom data check trajectories --hash-videos --model ./checkpoint
"""
_MIX_EXAMPLES = """examples:
  vzoom data mix exemplars/kept reflections/kept --ratio 0.25 --out sft-data
"""
_IMPORT_EXAMPLES = """examples:
  vzoom data import rl train.json --videos ./videos --out questions
  vzoom data import sft sft.json --videos ./videos --video-list sft_videos.json --out exemplars
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "data",
        help="show, check, import and mix conversations on disk",
        description="Conversations on disk, to train on: show one, check all, import published ones, mix two sets.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    show = _action(actions, "show", "print one record and every token with its mask", _SHOW_EXAMPLES)
    show.add_argument("file", metavar="FILE", help="a folder of shards, or one shard")
    show.add_argument("--index", type=int, default=0, metavar="N", help="which record, from 0 (default: %(default)s)")
    show.add_argument("--all", action="store_true", help="a line for each visual token, not one for each frame")
    add_model(show, "the model that the tokens are for")
    show.set_defaults(run=run_show)

    check = _action(actions, "check", "read every record; stop at the first that is wrong", _CHECK_EXAMPLES)
    check.add_argument("file", metavar="FILE", help="a folder of shards, or one shard")
    check.add_argument("--hash-videos", action="store_true", help="also read the videos and compare their hashes")
    add_model(check, "also tokenize every record for this model", default=None)
    check.set_defaults(run=run_check)

    importer = _action(actions, "import", "take over the data that VideoZoomer published", _IMPORT_EXAMPLES)
    importer.add_argument(
        "kind", choices=("sft", "rl"), help="sft: {messages, images}; rl: {problem, solution, videos}"
    )
    importer.add_argument("file", metavar="FILE", help="a JSON list")
    add_out(importer, "a folder of shards; records that it holds are not added again", required=True)
    importer.add_argument(
        "--videos", default=".", metavar="DIR", help="where relative paths of videos start (default: %(default)s)"
    )
    importer.add_argument("--video-list", metavar="FILE", help="sft: a JSON list with the video of each row")
    share(
        importer,
        "--protocol",
        help="what the model is shown and how it writes: the name of a built-in protocol or a protocol.toml "
        "(default: vzoom's words, with the frames of VideoZoomer's public code)",
    )
    importer.set_defaults(run=run_import)

    mixer = _action(actions, "mix", "make one set for SFT of exemplars and reflections", _MIX_EXAMPLES)
    mixer.add_argument("exemplars", metavar="EXEMPLARS", help="a folder of shards; all of it is taken")
    mixer.add_argument("reflections", metavar="REFLECTIONS", help="a folder of shards; as many as the ratio asks for")
    mixer.add_argument(
        "--ratio", type=float, default=0.25, metavar="X", help="reflections per exemplar (default: %(default)s)"
    )
    share(mixer, "--seed")
    add_out(mixer, "a folder of shards", required=True)
    mixer.set_defaults(run=run_mix)


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, examples: str
) -> argparse.ArgumentParser:
    return actions.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run_show(args: argparse.Namespace) -> ExitCode:
    """Run `data show`."""
    from vzoom.data import LEGEND, head_lines, read_one, token_lines
    from vzoom.models import load_vocabulary

    record = read_one(args.file, args.index)
    style = Style(sys.stdout)
    for line in head_lines(record):
        print(printable(line))
    if not record.turns:
        return ExitCode.OK
    print(f"\n{LEGEND}")
    counts = dict.fromkeys(_COLOURS, 0)
    for token in token_lines(record, load_vocabulary(model_path(args.model)), every_visual=args.all):
        print(style(printable(str(token)), _COLOURS[token.mask]))
        counts[token.mask] += token.count
    print(f"\n{sum(counts.values())} tokens: {counts['learned']} learned, {counts['shown']} shown, {counts['fed']} fed")
    return ExitCode.OK


def run_mix(args: argparse.Namespace) -> ExitCode:
    """Run `data mix`."""
    from vzoom.data import Writer, mix, read

    exemplars, reflections = list(read(args.exemplars)), list(read(args.reflections))
    mixed = mix(exemplars, reflections, ratio=args.ratio, seed=args.seed)
    with Writer(args.out) as writer:
        if not writer.ids <= {record.id for record in mixed}:
            raise ValueError(f"{args.out} holds other records: name another folder")
        for record in mixed:
            if record.id not in writer.ids:
                writer.add(record)
    print(f"{args.out}: {len(exemplars)} exemplars and {len(mixed) - len(exemplars)} reflections")
    return ExitCode.OK


def run_check(args: argparse.Namespace) -> ExitCode:
    """Run `data check`."""
    from vzoom.data import InvalidRecord, check_video, num_waiting, read, tokenize_record
    from vzoom.models import load_vocabulary

    vocabulary = load_vocabulary(model_path(args.model)) if args.model else None
    num_records = num_learned = 0
    try:
        for record in read(args.file):
            try:
                if args.hash_videos:
                    check_video(record.video)
                if vocabulary is not None and record.turns:
                    num_learned += sum(tokenize_record(record, vocabulary).learned)
            except (ValueError, OSError) as error:
                raise InvalidRecord(f"{args.file}, record {num_records} ({record.id}): {error}") from error
            num_records += 1
    except InvalidRecord as error:
        if args.traceback:
            raise
        print(f"vzoom data: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return ExitCode.FAILED
    learned = f", {num_learned} learned tokens" if vocabulary is not None else ""
    print(f"{args.file}: {num_records} records{learned}, all well")
    if waiting := num_waiting(args.file):
        note(f"{waiting} more are in the journal of a writer that is at work, or was stopped: run it again")
    return ExitCode.OK


def run_import(args: argparse.Namespace) -> ExitCode:
    """Run `data import`."""
    from vzoom.config import ZoomConfig
    from vzoom.data import Writer, import_rl, import_sft
    from vzoom.protocol import check_complete, load_protocol

    protocol = None if args.protocol is None else load_protocol(args.protocol)
    options: dict[str, Any] = {}
    if protocol is not None:
        check_complete(protocol)
        options["config"] = ZoomConfig.of(protocol)
    if args.kind == "rl":
        if args.video_list:
            raise ValueError("--video-list is for sft: the rows of an RL list name their videos")
        records = import_rl(args.file, videos=args.videos, **options)
    else:
        if protocol is not None:
            options["frames"] = protocol.frame
        records = import_sft(args.file, videos=args.videos, video_list=args.video_list, **options)
    with Writer(args.out) as writer:
        num_before = len(writer.ids)
        for record in records:
            if record.id not in writer.ids:
                writer.add(record)
        num_added = len(writer.ids) - num_before
    print(f"{args.out}: {num_added} records added, {num_before} were there")
    return ExitCode.OK
