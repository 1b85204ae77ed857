"""An expert behind an endpoint, asked once: every reply is in the ledger before it is used.

What is asked again, in a run that was killed and taken up, is answered by the ledger and costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ...chat import BudgetSpent, Chat, ChatFailed, Reply, Usage
from ...protocol import TURN_ENDS, Judge, JudgeFailed, is_right
from ..record import Record, reference_of
from .collect import NoReply, Stopped
from .messages import Message
from .reply_cache import Ledger, key_of


class Expert:
    """Asks `chat`, with `ledger` in front of it. May be called from many threads, with distinct requests.

    max_tokens: the most that one reply may take. num_paid, num_found: requests since this object was made.
    """

    def __init__(self, chat: Chat, ledger: Ledger, *, temperature: float, max_tokens: int) -> None:
        self._chat, self._ledger = chat, ledger
        self._temperature, self._max_tokens = temperature, max_tokens
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.num_paid = self.num_found = 0

    def ask(self, messages: Sequence[Message], *, tag: str, task: str, attempt: int) -> Reply:
        """NoReply where no endpoint gives one, Stopped where the budget is spent or `stop` was called."""
        request = {"messages": messages, "tag": tag, "task": task, "attempt": attempt}
        key = key_of({**request, "temperature": self._temperature, "max_tokens": self._max_tokens})
        found = self._ledger.get(key)
        if found is None:
            if self._over.is_set():
                raise Stopped("the run is being ended")
            reply = self._buy(messages, tag, task)
            found = {"record": tag, "task": task, "attempt": attempt, "reply": reply.to_json()}
            self._ledger.put(key, found)
            with self._lock:
                self.num_paid += 1
        else:
            with self._lock:
                self.num_found += 1
        return Reply.from_json(found["reply"])

    def stop(self) -> None:
        """Nothing is asked from now on; replies on their way are still put into the ledger."""
        self._over.set()

    def _buy(self, messages: Sequence[Message], tag: str, task: str) -> Reply:
        try:
            reply = self._chat.complete(
                messages,
                tag=tag,
                task=task,
                stop=TURN_ENDS,
                temperature=self._temperature,
                max_tokens=self._max_tokens,
            )
        except BudgetSpent as spent:
            raise Stopped(str(spent)) from spent
        if isinstance(reply, ChatFailed):
            raise NoReply(f"no reply about {tag}, after {reply.num_attempts} attempts: {reply.reason}")
        return reply


@dataclass(frozen=True)
class Verifier:
    """`protocol.is_right` of a question's record. The judge's verdicts are kept in the ledger."""

    ledger: Ledger
    judge: Judge | None = None

    def check(self, question: Record) -> None:
        """ValueError if no answer to it could be verified: better known before anything is paid."""
        if not reference_of(question).options and self.judge is None:
            raise ValueError(f"record {question.id} has no options: an open answer needs a judge")

    def __call__(self, question: Record, answer: str) -> bool:
        """NoReply if the judge gives no verdict."""
        self.check(question)
        right = is_right(answer, reference_of(question), judge=partial(self._remembered, question.id))
        if isinstance(right, JudgeFailed):
            raise NoReply(f"no verdict on {question.id}: {right.reason}")
        return right

    def _remembered(self, id: str, question: str, reference: str, answer: str) -> bool | JudgeFailed:
        """The judge's verdict, asked for once and then found in the ledger."""
        assert self.judge is not None
        key = key_of({"task": "judge", "question": question, "reference": reference, "answer": answer})
        found = self.ledger.get(key)
        if found is None:
            verdict = self.judge(question, reference, answer)
            if isinstance(verdict, JudgeFailed):
                return verdict
            found = {"record": id, "task": "judge", "right": verdict}
            self.ledger.put(key, found)
        return bool(found["right"])


def spent(ledger: Ledger) -> dict[str, Usage]:
    """What the replies in a ledger cost, by endpoint."""
    usage: dict[str, Usage] = {}
    for row in ledger.values():
        if "reply" in row:
            reply = Reply.from_json(row["reply"])
            one = Usage(1, 0, reply.prompt_tokens, reply.completion_tokens, reply.cost)
            usage[reply.endpoint] = usage.get(reply.endpoint, Usage()) + one
    return usage
