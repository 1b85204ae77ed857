"""`vzoom protocol learn`, `check` and `show`: what a model was trained to be shown and to write."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import Style, note, printable
from ..exit_codes import ExitCode
from ..loading import model_path
from ..options import add_model, add_out

if TYPE_CHECKING:
    from vzoom.protocol import Protocol, Vocabulary

_DEVIATIONS = 10  # shown, of all that there are

_LEARN_EXAMPLES = """examples:
  vzoom protocol learn sft.json -o videozoomer
  vzoom ask match.mp4 "Who scored first?" --model zsgvivo/videozoomer --protocol videozoomer
"""
_CHECK_EXAMPLES = """examples:
  vzoom protocol check videozoomer sft.json
"""
_SHOW_EXAMPLES = """examples:
  vzoom protocol show qwen-zero-shot
  vzoom protocol show ./checkpoint
  vzoom protocol show videozoomer/protocol.toml --model ./checkpoint
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "protocol",
        help="learn, check and show what a model was trained to be shown and to write",
        description="A protocol is what a model was trained to be shown and to write: texts, tags, frame rules.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    learn = _action(
        actions,
        "learn",
        "learn the texts of a protocol from published conversations",
        "All that the conversations show is taken word for word; tags, frame rules, sizes and limits are the base's.",
        _LEARN_EXAMPLES,
    )
    _add_data(learn)
    add_out(learn, "a folder, for protocol.toml", required=True)
    learn.add_argument(
        "--base",
        metavar="PROTOCOL",
        help="a protocol with the same tags, built in or a file (default: the built-in one that reads most calls)",
    )
    learn.add_argument(
        "--name",
        metavar="NAME",
        help="of the new protocol (default: its base's if that lacks texts, else that of DIR)",
    )
    learn.set_defaults(run=run_learn)

    check = _action(
        actions,
        "check",
        "render published conversations by a protocol and compare every character",
        "Exit code 0 if all conversations are given back, 1 if not; the first places that differ are shown.",
        _CHECK_EXAMPLES,
    )
    check.add_argument("protocol", metavar="PROTOCOL", help="a folder or file with a protocol.toml, or a built-in name")
    _add_data(check)
    check.set_defaults(run=run_check)

    show = _action(
        actions,
        "show",
        "print the four kinds of turn of a protocol",
        "With a model's tokenizer the text of each turn stands beside its token ids.",
        _SHOW_EXAMPLES,
    )
    show.add_argument(
        "what", metavar="WHAT", help="a built-in protocol, a file or folder with a protocol.toml, or a model"
    )
    add_model(show, "the model whose tokenizer makes the ids", default=None)
    show.set_defaults(run=run_show)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", metavar="DATA", help='conversations as they are published, {"messages", "images"}: JSON'
    )


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, more: str, examples: str
) -> argparse.ArgumentParser:
    return actions.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}. {more}",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run_learn(args: argparse.Namespace) -> ExitCode:
    """Run `protocol learn`."""
    from vzoom.data import check_chats, guess_base, learn_protocol, read_chats
    from vzoom.protocol import PROTOCOL_FILE, load_protocol, to_toml

    chats = read_chats(args.data)
    base = load_protocol(args.base) if args.base else guess_base(chats)
    name = args.name or (base.name if base.missing else args.out.resolve().name)
    learned = learn_protocol(chats, base, name=name)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / PROTOCOL_FILE
    path.write_text(to_toml(learned.protocol), encoding="utf-8")
    for line in learned.found:
        print(printable(line))
    for line in learned.unsure:
        note(f"the data cannot tell {line}")
    if learned.protocol.unknown_texts:
        note(f"still missing: {', '.join(learned.protocol.unknown_texts)}")
    odd = len({deviation.row for deviation in check_chats(chats, learned.protocol)})
    print(
        f"{path}: learned from {len(chats)} conversations on the base of {base.name}; gives "
        f"{len(chats) - odd} of them back, character for character"
    )
    return ExitCode.OK


def run_check(args: argparse.Namespace) -> ExitCode:
    """Run `protocol check`."""
    from vzoom.data import check_chats, read_chats
    from vzoom.protocol import check_complete, load_protocol

    protocol = load_protocol(args.protocol)
    check_complete(protocol)
    chats = read_chats(args.data)
    deviations = check_chats(chats, protocol)
    for deviation in deviations[:_DEVIATIONS]:
        print(printable(str(deviation)))
    if len(deviations) > _DEVIATIONS:
        rows = sorted({str(deviation.row) for deviation in deviations[_DEVIATIONS:]}, key=int)
        print(f"and {len(deviations) - _DEVIATIONS} more, in the rows {', '.join(rows)}")
    odd = len({deviation.row for deviation in deviations})
    print(f"{args.data}: {len(chats) - odd} of {len(chats)} conversations are given back, character for character")
    return ExitCode.FAILED if deviations else ExitCode.OK


def run_show(args: argparse.Namespace) -> ExitCode:
    """Run `protocol show`."""
    from vzoom.data import example_turns, text_of, token_runs

    protocol, vocabulary = _shown(args.what, args.model)
    style = Style(sys.stdout)
    print(f"protocol {protocol.name}")
    if names := protocol.unknown_texts:
        print(f"lacks texts that are shown by their names: {', '.join(names)}")
    for kind, parts in example_turns(protocol).items():
        print(f"\n{style(kind, 'bold')}")
        if vocabulary is None:
            print(printable(text_of(parts)))
            continue
        runs = [(repr(run.text), " ".join(map(str, run.ids))) for run in token_runs(parts, vocabulary)]
        width = max(len(text) for text, _ in runs)
        for text, ids in runs:
            print(f"{printable(text):{width}}  {style(ids, 'dim')}")
    return ExitCode.OK


def _shown(what: str, model: str | None) -> tuple[Protocol, Vocabulary | None]:
    """The protocol that is shown, and the vocabulary of its ids; None if no model is named."""
    from vzoom.models import checkpoint_protocol, load_vocabulary
    from vzoom.protocol import PROTOCOL_FILE, builtin_for, builtin_names, load_protocol

    path = Path(what)
    is_only_protocol = (path / PROTOCOL_FILE).is_file() and not (path / "config.json").is_file()
    if what in builtin_names() or path.is_file() or is_only_protocol:
        return load_protocol(what), load_vocabulary(model_path(model)) if model else None
    try:
        protocol = checkpoint_protocol(model_path(what))
    except OSError as error:
        known = builtin_for(what)
        if known is None:
            raise
        note(f"its files cannot be had, so no ids are shown: {error}")
        return known, load_vocabulary(model_path(model)) if model else None
    return protocol, load_vocabulary(model_path(model or what))
