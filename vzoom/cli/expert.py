"""What `vzoom distill` and `vzoom reflect` share: the questions, the expert, and what came of it."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..data import ExpertSettings
from .console import note, printable
from .exit_codes import ExitCode
from .options import add_out, add_settings, given, share

if TYPE_CHECKING:
    from ..chat import Budget, Usage
    from ..data import CollectSummary, Expert, Record, ReplyCache, Verifier

_EXPERT = "VZOOM_EXPERT"
_FLAGS = {"temperature": "expert_temperature"}  # --temperature is of the --model
_KEPT = ("attempts", "temperature", "reply_tokens")  # what a folder must be resumed with

ENVIRONMENT = f"""the expert is an OpenAI-compatible endpoint that the environment names:
  {_EXPERT}_URL and {_EXPERT}_MODEL, and {_EXPERT}_KEY (or _KEY_FILE) if it wants a key
  {_EXPERT}_URL_2, {_EXPERT}_URL_3 … are asked when the ones before them fail
  {_EXPERT}_PRICE_IN and {_EXPERT}_PRICE_OUT: prices per million tokens, to count what it costs
  VZOOM_JUDGE_URL … likewise, for questions without options

Killed or stopped, run the same command again: no reply is paid for twice, they are in OUT/replies.jsonl.
Exit code 1: stopped before all was done.
"""


def add_expert_options(parser: argparse.ArgumentParser) -> None:
    """What both commands take."""
    share(parser, "--questions", "--limit")
    add_out(parser, "a folder; the same command resumes from what it holds", required=True)
    parser.add_argument("--progress", action="store_true", help="a line for every conversation, not every tenth part")
    add_settings(parser.add_argument_group("expert"), ExpertSettings, flags=_FLAGS)


def expert_settings(args: argparse.Namespace) -> ExpertSettings:
    """What the options say of the expert."""
    return ExpertSettings(**given(args, ExpertSettings, flags=_FLAGS))


def kept_settings(settings: ExpertSettings) -> dict[str, object]:
    """What a folder must be resumed with; limits and concurrency may change."""
    return {name: getattr(settings, name) for name in _KEPT}


def read_questions(args: argparse.Namespace) -> list[Record]:
    """The records of --questions, up to --limit."""
    from ..data import num_waiting, read

    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit must be 1 or more, got {args.limit}")
    if waiting := num_waiting(args.questions):
        raise ValueError(f"{args.questions}: {waiting} records wait in the journal of a writer: let it finish first")
    return list(islice(read(args.questions), args.limit))


class ExpertSession:
    """The expert with its replies on the disk and its budget, from the options and the environment."""

    def __init__(self, out: Path, settings: ExpertSettings) -> None:
        from ..chat import Budget, Chat, endpoints_from_environment
        from ..data import LOCK, Expert, Lock, ReplyCache, spent

        endpoints = endpoints_from_environment(_EXPERT)
        self.out, self.settings = out, settings
        with ExitStack() as stack:
            lock = stack.enter_context(Lock(out / LOCK))
            if told := lock.note():
                note(told)
            self.cache: ReplyCache = stack.enter_context(closing(ReplyCache(out / "replies.jsonl")))
            self.budget: Budget = Budget(
                max_cost=settings.max_cost, max_tokens=settings.max_tokens, start=spent(self.cache)
            )
            chat = Chat(endpoints, concurrency=settings.concurrency, budget=self.budget)
            self.expert: Expert = Expert(
                chat, self.cache, temperature=settings.temperature, max_tokens=settings.reply_tokens
            )
            self._held = stack.pop_all()

    def __enter__(self) -> ExpertSession:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def verifier(self, questions: list[Record]) -> Verifier:
        """Says whether an answer is right; asks the environment's judge if a question has no options."""
        from ..data import Verifier
        from ..eval import judge_for

        return Verifier(self.cache, judge_for(questions))

    def costs(self) -> str:
        """What all runs have used so far, for a line of progress."""
        total = self.budget.total
        price = f", cost {total.total_cost:.4f}" if total.total_cost else ""
        return f", {total.tokens} tokens{price}"

    def finish(self, found: CollectSummary) -> ExitCode:
        """Say what came of it, and write summary.json if all is done."""
        from ..data import spent, write_summary

        usage: dict[str, Usage] = spent(self.cache)
        if found.stopped is not None:
            print(f"stopped: {printable(found.stopped)}", file=sys.stderr)
            print(f"{found.kept} are kept so far. Run the same command again to resume.", file=sys.stderr)
            return ExitCode.FAILED
        write_summary(
            self.out / "summary.json",
            found,
            paid={name: {**one.to_json(), "cost": round(one.cost, 6)} for name, one in sorted(usage.items())},
        )
        why = Counter(found.rejected) + Counter(found.passed)
        left = ", ".join(f"{count} {reason}" for reason, count in why.items())
        print(f"{self.out}/kept: {found.kept} of {found.items} kept{f'; {left}' if left else ''}{self.costs()}")
        if silent := found.passed.get("no_reply"):
            note(f"{silent} got no reply this time: run the same command again to ask about them again")
        return ExitCode.OK
