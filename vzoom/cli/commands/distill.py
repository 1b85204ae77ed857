"""`vzoom distill`: an expert behind an endpoint plays our game; conversations with a right answer are kept."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import note, printable

if TYPE_CHECKING:
    from vzoom.chat import Budget, Usage
    from vzoom.data import CollectSummary, Expert, Record, ReplyCache, Verifier

_UNFINISHED = 1
_EXPERT = "VZOOM_EXPERT"

ENVIRONMENT = f"""the expert, an OpenAI-compatible endpoint, comes from the environment:
  {_EXPERT}_URL, {_EXPERT}_MODEL, and {_EXPERT}_KEY where it wants one; {_EXPERT}_URL_2 … are tried when it fails;
  {_EXPERT}_PRICE_IN and _PRICE_OUT, a million tokens, count the cost
  VZOOM_JUDGE_URL … likewise, for questions without options

Killed or stopped, run the same command again: what was paid for is in OUT/replies.jsonl and is not asked again.
"""
_EXAMPLES = """examples:
  vzoom distill questions --out exemplars --model Qwen/Qwen2.5-VL-7B-Instruct --attempts 2 --temperature 0.7
  vzoom distill questions --out exemplars --model ./base --limit 20 --max-cost 1
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "distill",
        help="have an expert make trajectories; keep those with a right answer",
        description="Have an expert play the game on questions; keep the conversations whose answer is right.",
        epilog=f"{ENVIRONMENT}\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", default="embedded", metavar="M", help="who is to learn: its tokens and frame sizes (no weights)"
    )
    add_expert_options(parser)
    parser.set_defaults(run=run)


def add_expert_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("questions", metavar="QUESTIONS", help="a folder of records without turns")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="what is there is gone on with")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    parser.add_argument("--progress", action="store_true", help="a line for every conversation, not every tenth part")
    group = parser.add_argument_group("expert")
    group.add_argument("--attempts", type=int, default=1, metavar="N", help="until it is right (default: 1)")
    group.add_argument("--temperature", type=float, default=0.0, metavar="T", help="of the expert (default: 0)")
    group.add_argument("--concurrency", type=int, default=8, metavar="N", help="conversations at once (default: 8)")
    group.add_argument("--reply-tokens", type=int, default=4096, metavar="N", help="most tokens of a reply")
    group.add_argument("--max-cost", type=float, metavar="X", help="stop before more than this is spent, all runs")
    group.add_argument("--max-tokens", type=int, metavar="N", help="stop before more tokens are spent, all runs")


def run(args: argparse.Namespace) -> int:
    from vzoom.data import EpisodeFactory, distill, same_settings
    from vzoom.models import load_patch_spec, load_vocabulary
    from vzoom.video import ClipCache

    from .data import model_path

    model = model_path(args.model)
    questions = read_questions(args)
    settings = {"command": "distill", "model": args.model, **expert_settings(args)}
    with Bench(args) as bench:
        factory = EpisodeFactory(load_vocabulary(model), load_patch_spec(model), ClipCache())
        same_settings(args.out, settings)
        found = distill(
            questions,
            args.out,
            factory=factory,
            expert=bench.expert,
            verify=bench.verifier(questions),
            attempts=args.attempts,
            concurrency=args.concurrency,
            say=Say(args.progress),
            costs=bench.costs,
        )
        return bench.finish(found)


def read_questions(args: argparse.Namespace) -> list[Record]:
    from vzoom.data import num_waiting, read

    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit must be 1 or more, got {args.limit}")
    if waiting := num_waiting(args.questions):
        raise ValueError(f"{args.questions}: {waiting} records wait in the journal of a writer: let it finish first")
    return list(islice(read(args.questions), args.limit))


def expert_settings(args: argparse.Namespace) -> dict[str, object]:
    """What a folder must be gone on with; limits and concurrency may change."""
    names = ("attempts", "temperature", "reply_tokens")
    return {name: getattr(args, name) for name in names}


class Say:
    """Lines of progress on stderr: in place on a terminal, every tenth part of the way elsewhere."""

    def __init__(self, every: bool) -> None:
        self.every, self.tenth = every, -1

    def __call__(self, done: int, total: int, line: str) -> None:
        tenth = done * 10 // total
        line = printable(f"{done}/{total}: {line}")
        if sys.stderr.isatty() and not self.every:
            print(f"\r{line}\x1b[K", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif self.every or tenth != self.tenth:
            print(line, file=sys.stderr, flush=True)
        self.tenth = tenth


class Bench:
    """The expert with its cache and its budget, from the options and the environment."""

    def __init__(self, args: argparse.Namespace) -> None:
        from vzoom.chat import Budget, Chat, endpoints_from_environment
        from vzoom.data import Expert, ReplyCache, spent

        endpoints = endpoints_from_environment(_EXPERT)
        self.out: Path = args.out
        self.cache: ReplyCache = ReplyCache(args.out / "replies.jsonl")
        self.budget: Budget = Budget(max_cost=args.max_cost, max_tokens=args.max_tokens, start=spent(self.cache))
        chat = Chat(endpoints, concurrency=args.concurrency, budget=self.budget)
        self.expert: Expert = Expert(chat, self.cache, temperature=args.temperature, max_tokens=args.reply_tokens)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.cache.close()

    def verifier(self, questions: list[Record]) -> Verifier:
        from vzoom.data import Verifier
        from vzoom.eval import judge_for

        return Verifier(self.cache, judge_for(questions))

    def costs(self) -> str:
        total = self.budget.total
        price = f", cost {total.total_cost:.4f}" if total.total_cost else ""
        return f", {total.tokens} tokens{price}"

    def finish(self, found: CollectSummary) -> int:
        """Say what became of it, and write summary.json where all is done."""
        from vzoom.data import spent, write_summary

        usage: dict[str, Usage] = spent(self.cache)
        if found.stopped is not None:
            print(f"stopped: {printable(found.stopped)}", file=sys.stderr)
            print(f"{found.kept} are kept so far. Run the same command again to go on.", file=sys.stderr)
            return _UNFINISHED
        write_summary(
            self.out / "summary.json",
            found,
            paid={name: {**one.to_json(), "cost": round(one.cost, 6)} for name, one in sorted(usage.items())},
        )
        why = Counter(found.rejected) + Counter(found.passed)
        left = ", ".join(f"{count} {reason}" for reason, count in why.items())
        print(f"{self.out}/kept: {found.kept} of {found.items} kept{f'; {left}' if left else ''}{self.costs()}")
        if silent := found.passed.get("no_reply"):
            note(f"{silent} got no reply this time: run the same command again to have them asked again")
        return 0
