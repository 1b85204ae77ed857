"""An expert behind an endpoint, asked once: every reply is in the reply cache before it is used.

A run that was killed and resumed asks the same again: the cache answers, and it costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ...chat import BudgetSpent, Chat, ChatFailed, Reply, Usage
from ...protocol import Judge, JudgeFailed, is_right
from ..record import Record, reference_of
from .loop import NoReply, Stopped
from .messages import Message
from .reply_cache import ReplyCache, key_of


class Expert:
    """Asks an endpoint, with a reply cache in front of it. May be called from many threads, with distinct requests.

    Args:
        chat: the client.
        cache: replies that were paid for before.
        temperature: of the expert.
        max_tokens: the most that one reply may take.
    """

    def __init__(self, chat: Chat, cache: ReplyCache, *, temperature: float, max_tokens: int) -> None:
        self._chat, self._cache = chat, cache
        self._temperature, self._max_tokens = temperature, max_tokens
        self._over = threading.Event()

    def ask(self, messages: Sequence[Message], *, tag: str, task: str, attempt: int, stop: Sequence[str] = ()) -> Reply:
        """The reply to `messages`.

        Args:
            messages: the conversation so far, as an endpoint takes it.
            tag: id of the record that it is about.
            task: "distill" or "reflect".
            attempt: number of the conversation about this record; another number is another request.
            stop: the texts after which a turn of the record's protocol ends.

        Raises:
            NoReply: no endpoint gives a reply.
            Stopped: the budget is spent, or `stop` was called.
        """
        request = {"messages": messages, "tag": tag, "task": task, "attempt": attempt}
        key = key_of({**request, "temperature": self._temperature, "max_tokens": self._max_tokens})
        found = self._cache.get(key)
        if found is None:
            if self._over.is_set():
                raise Stopped("the run is being ended")
            reply = self._buy(messages, tag, task, stop)
            found = {"record": tag, "task": task, "attempt": attempt, "reply": reply.to_json()}
            self._cache.put(key, found)
        return Reply.from_json(found["reply"])

    def stop(self) -> None:
        """Ask nothing from now on. Replies on their way are still put into the cache."""
        self._over.set()

    def _buy(self, messages: Sequence[Message], tag: str, task: str, stop: Sequence[str]) -> Reply:
        try:
            reply = self._chat.complete(
                messages,
                tag=tag,
                task=task,
                stop=stop,
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
    """`is_right` of a question's record; what the judge says is kept in the reply cache.

    Args:
        cache: holds the judge's verdicts, so that each is asked for once.
        judge: for questions without options.
    """

    cache: ReplyCache
    judge: Judge | None = None

    def check(self, question: Record) -> None:
        """Whether an answer to the question could be verified at all: better known before anything is paid.

        Raises:
            ValueError: there is no reference, it is no letter of the options, or there is no judge for an open answer.
        """
        if not reference_of(question).options and self.judge is None:
            raise ValueError(f"record {question.id} has no options: an open answer needs a judge")

    def __call__(self, question: Record, answer: str) -> bool:
        """Whether `answer` is right.

        Raises:
            ValueError: see `check`.
            NoReply: the judge gives no verdict.
        """
        self.check(question)
        right = is_right(answer, reference_of(question), judge=partial(self._remembered, question.id))
        if isinstance(right, JudgeFailed):
            raise NoReply(f"no verdict on {question.id}: {right.reason}")
        return right

    def _remembered(self, id: str, question: str, reference: str, answer: str) -> bool | JudgeFailed:
        """The judge's verdict, asked for once and then found in the cache."""
        assert self.judge is not None
        key = key_of({"task": "judge", "question": question, "reference": reference, "answer": answer})
        found = self.cache.get(key)
        if found is None:
            verdict = self.judge(question, reference, answer)
            if isinstance(verdict, JudgeFailed):
                return verdict
            found = {"record": id, "task": "judge", "right": verdict}
            self.cache.put(key, found)
        return bool(found["right"])


def spent(cache: ReplyCache) -> dict[str, Usage]:
    """What the replies in a cache cost, by the endpoint's name."""
    usage: dict[str, Usage] = {}
    for row in cache.values():
        if "reply" in row:
            reply = Reply.from_json(row["reply"])
            one = Usage(1, 0, reply.prompt_tokens, reply.completion_tokens, reply.cost)
            usage[reply.endpoint] = usage.get(reply.endpoint, Usage()) + one
    return usage
