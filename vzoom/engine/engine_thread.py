"""One warm engine on a thread of its own: it serves the callers of all threads, and no other code touches it.

A caller submits requests, and is sent what happens to them. The engine is made for the first submission, and made anew
for one that it is too small for. Submissions begin in the order in which they came. Requests of different callers run
together, those of one with at most as many sessions as it asked for: nobody waits behind a caller with many requests.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue

import torch

from ..types import Event, Failed, Finished, TurnOpened
from .clip_reuse import Reuse
from .interface import ConversationEngine
from .request import Outcome, OutcomeBuilder, Request

Message = Event | Outcome
_EXIT_SECONDS = 1.0  # that the end of the process waits for a step of the engine

_threads: weakref.WeakSet[EngineThread] = weakref.WeakSet()
_process_ends = threading.Event()


@dataclass(frozen=True)
class EngineSize:
    """What an engine is made for: see `Engine`."""

    max_sessions: int
    max_total_tokens: int
    reuse: Reuse = "off"

    def holds(self, other: EngineSize) -> bool:
        """Whether an engine of this size can run what needs the other."""
        return (
            self.max_sessions >= other.max_sessions
            and self.max_total_tokens >= other.max_total_tokens
            and self.reuse == other.reuse
        )


class Submission:
    """Requests of one caller.

    Args:
        requests: what to answer.
        size: max_sessions of them run at once at most, on an engine of this size or larger.
        deliver: called on the engine's thread with what happened in a step, in order; request ids count the
            conversations of this submission from 0. It must return at once. The last outcome is the last call.
        with_events: whether it is sent events, and not the outcomes alone.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        size: EngineSize,
        deliver: Callable[[list[Message]], None],
        *,
        with_events: bool = False,
    ) -> None:
        self.requests, self.size, self.deliver, self.with_events = requests, size, deliver, with_events
        self.num_conversations = sum(request.num_rollouts for request in requests)
        # What follows is the engine thread's.
        self._builder = OutcomeBuilder(keep_clips=True)
        self._left = set(range(self.num_conversations))  # that have no outcome
        self._begun = 0  # requests that the engine was given, and the conversations of those
        self._begun_conversations = 0
        self._messages: list[Message] = []

    def next_request(self) -> Request | None:
        """The request that can be given to the engine now, if any."""
        if self._begun == len(self.requests):
            return None
        request = self.requests[self._begun]
        num_running = self._begun_conversations - (self.num_conversations - len(self._left))
        return request if not num_running or num_running + request.num_rollouts <= self.size.max_sessions else None

    @property
    def is_whole(self) -> bool:
        """Whether every conversation has its outcome."""
        return not self._left

    def begin(self) -> range:
        """The next request is given to the engine. Returns the numbers of its conversations."""
        first = self._begun_conversations
        self._begun_conversations += self.requests[self._begun].num_rollouts
        self._begun += 1
        return range(first, self._begun_conversations)

    def add(self, event: Event, number: int) -> None:
        """What happened to conversation `number`."""
        if not (self.with_events or isinstance(event, TurnOpened | Finished | Failed)):
            return
        event = replace(event, request_id=number)
        if self.with_events:
            self._messages.append(event)
        if (outcome := self._builder.add(event)) is not None:
            self._left.discard(number)
            self._messages.append(outcome)

    def fail(self, error: Exception) -> None:
        """Whatever has no outcome yet ends with `error`."""
        for number in sorted(self._left):
            self.add(Failed(number, error), number)

    def flush(self) -> None:
        """Send what was added."""
        messages, self._messages = self._messages, []
        if messages:
            self.deliver(messages)


class EngineThread:
    """Runs submissions on one engine. Its methods may be called from any thread.

    Args:
        make: makes an engine of a size; called on the engine's thread.
        smallest: the size of the first engine, or larger.
    """

    def __init__(self, make: Callable[[EngineSize], ConversationEngine], smallest: EngineSize) -> None:
        self._make, self._smallest = make, smallest
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._start_afresh()
        _threads.add(self)

    def submit(self, submission: Submission) -> None:
        """Queue a submission.

        Raises:
            ValueError: this was closed.
        """
        with self._lock:
            if self._is_closed:
                raise ValueError("it was closed, and answers no more: load the model again")
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="vzoom-engine", daemon=True)
                self._thread.start()
            self._inbox.put((submission, True))

    def replies(
        self, requests: Sequence[Request], size: EngineSize, *, with_events: bool
    ) -> Generator[Message, None, None]:
        """Submit requests, and yield what happens to them on the caller's thread, until each has its outcome.

        A caller that stops early (an exception, an interrupt, a generator that is closed) cancels them.

        Args:
            requests: as for `Submission`; so are the others.

        Raises:
            ValueError: this was closed, or the caller has forked meanwhile.
        """
        queue: SimpleQueue[list[Message]] = SimpleQueue()
        submission = Submission(requests, size, queue.put, with_events=with_events)
        pid, left = os.getpid(), submission.num_conversations
        self.submit(submission)
        try:
            while left:
                for message in queue.get():
                    left -= isinstance(message, Outcome)
                    yield message
                    if os.getpid() != pid:
                        raise ValueError("fork() in the middle of a conversation: its engine is in the other process")
        finally:
            if left and os.getpid() == pid:
                self.cancel(submission)

    def cancel(self, submission: Submission) -> None:
        """Drop a submission. Its pages are free before the engine's next step, and it is sent nothing more."""
        self._inbox.put((submission, False))

    def stop(self) -> None:
        """End the thread after its present step, without waiting. What it has not answered ends with an error.

        Takes no lock: the garbage collector may call it anywhere.
        """
        self._inbox.put(None)

    def close(self) -> None:
        """End the thread and give back the engine's memory. What it has not answered ends with an error."""
        with self._lock:
            self._is_closed = True
            self.stop()
        self.join(None)

    def join(self, seconds: float | None) -> None:
        """Wait for the end of the thread, after `stop`."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def _start_afresh(self) -> None:
        """As after fork(): the thread is not here, and a lock that it held is never released."""
        self._lock = threading.Lock()
        self._thread = None
        self._inbox: SimpleQueue[tuple[Submission, bool] | None] = SimpleQueue()
        # What follows is the thread's.
        self._engine: ConversationEngine | None = None
        self._size = self._smallest
        self._submissions: list[Submission] = []
        self._owners: dict[int, tuple[Submission, int]] = {}  # by the engine's request id

    # ------------------------------------------------------------ on the thread

    def _serve(self) -> None:
        torch.set_num_threads(torch.get_num_threads())  # OpenMP counts for each thread, and is told of one alone
        try:
            while self._take_orders():
                self._begin()
                self._step()
        finally:
            with self._lock:
                self._is_closed = True
            while not self._inbox.empty():
                if (order := self._inbox.get()) is not None and order[1]:
                    self._submissions.append(order[0])
            # At the end of the process the callers that are left are daemons: they vanish, and need no error.
            for submission in [] if _process_ends.is_set() else list(self._submissions):
                self._fail(submission, ValueError("the model was closed before this was answered"))
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    def _take_orders(self) -> bool:
        """Take submissions in and drop those that were cancelled; waits if there is nothing to do. False at the end."""
        while not self._submissions or not self._inbox.empty():
            order = self._inbox.get()
            if order is None:
                return False
            submission, is_new = order
            if is_new:
                self._submissions.append(submission)
            elif submission in self._submissions:
                self._forget(submission)
        return True

    def _begin(self) -> None:
        """Give the engine what it may run."""
        for submission in list(self._submissions):
            if submission.next_request() is None:
                continue
            engine = self._engine
            if engine is None or not self._size.holds(submission.size):
                if self._owners:
                    return  # until they are done; whoever came later waits as well
                if (engine := self._renew(submission)) is None:
                    continue
            while (request := submission.next_request()) is not None:
                numbers = submission.begin()
                try:
                    first = engine.add(request)
                except ValueError as error:
                    for number in numbers:
                        submission.add(Failed(number, error), number)
                else:
                    self._owners |= {first + i: (submission, number) for i, number in enumerate(numbers)}
            self._flush(submission)

    def _renew(self, submission: Submission) -> ConversationEngine | None:
        """An engine that holds the submission, in place of an idle one; None if there can be none."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None  # its memory goes before that of the next is taken
        least, need = self._smallest, submission.size
        size = EngineSize(
            max(least.max_sessions, need.max_sessions), max(least.max_total_tokens, need.max_total_tokens), need.reuse
        )
        try:
            engine = self._make(size)
        except Exception as error:  # noqa: BLE001  the caller whose submission it was gets it
            self._fail(submission, error)
            return None
        self._engine, self._size = engine, size
        return engine

    def _step(self) -> None:
        if self._engine is None or not self._owners:
            return
        try:
            events = self._engine.step()
        except Exception as error:  # noqa: BLE001  no session's fault: whoever was in it gets it, others go on
            engine, self._engine = self._engine, None
            events = [Failed(request_id, error) for request_id in self._owners]
            engine.close()
        touched: dict[Submission, None] = {}
        for event in events:
            submission, number = self._owners[event.request_id]
            submission.add(event, number)
            touched[submission] = None
            if isinstance(event, Finished | Failed):
                del self._owners[event.request_id]
        for submission in touched:
            self._flush(submission)

    def _flush(self, submission: Submission) -> None:
        try:
            submission.flush()
        except Exception:  # noqa: BLE001  the caller is gone (its event loop is closed, say)
            self._forget(submission)
            return
        if submission.is_whole:
            self._submissions.remove(submission)

    def _fail(self, submission: Submission, error: Exception) -> None:
        submission.fail(error)
        self._flush(submission)

    def _forget(self, submission: Submission) -> None:
        self._submissions.remove(submission)
        gone = {request_id for request_id, (owner, _) in self._owners.items() if owner is submission}
        if self._engine is not None:
            self._engine.abort(gone)
        for request_id in gone:
            del self._owners[request_id]


def _after_fork() -> None:
    for thread in _threads:
        thread._start_afresh()


def _at_exit() -> None:
    """Let steps end that are under way: what runs while the interpreter goes away may crash it."""
    _process_ends.set()
    end = time.monotonic() + _EXIT_SECONDS
    for thread in list(_threads):
        thread.stop()
    for thread in list(_threads):
        thread.join(max(0.0, end - time.monotonic()))


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
