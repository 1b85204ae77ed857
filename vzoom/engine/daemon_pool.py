"""Threads that compute futures and never hold up the end of the process.

Those of `concurrent.futures` are joined when the interpreter exits, however long what they do takes: a read from a
server that does not answer would hold up Ctrl-C. What these threads do is waited for a moment, and then forgotten.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Work = Callable[[], None]
_running: set[Future[Any]] = set()  # of all pools
_EXIT_SECONDS = 0.5


class DaemonPool:
    """Up to `num_threads` threads, started when they are first needed.

    Args:
        num_threads: how many things are done at once.
        name: of the threads, for debuggers.
    """

    def __init__(self, num_threads: int, name: str) -> None:
        self._num_threads, self._name = num_threads, name
        self._queue: SimpleQueue[tuple[Future[Any], _Work] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        # The threads know the queue alone: they end when nobody holds the pool any more.
        self._end = weakref.finalize(self, self._queue.put, None)
        self._end.atexit = False

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Call `function` in one of the threads.

        Returns:
            What it will return or raise.
        """
        future: Future[T] = Future()

        def work() -> None:
            try:
                result = function(*arguments)
            except BaseException as error:  # noqa: BLE001  whoever takes the result gets it
                future.set_exception(error)
            else:
                future.set_result(result)

        self._queue.put((future, work))
        if len(self._threads) < self._num_threads:
            thread = threading.Thread(target=_serve, args=(self._queue,), name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def close(self) -> None:
        """Cancel what has not begun. What runs is finished in the background and forgotten."""
        while not self._queue.empty():
            if waiting := self._queue.get():
                waiting[0].cancel()
        self._end()


def _serve(queue: SimpleQueue[tuple[Future[Any], _Work] | None]) -> None:
    while (item := queue.get()) is not None:
        future, work = item
        if future.set_running_or_notify_cancel():
            _running.add(future)
            work()
            _running.discard(future)
        del item, future, work  # or the thread would hold a clip until it gets something else to do
    queue.put(None)  # for the other threads of the pool


def _at_exit() -> None:
    """Let what runs end: a thread that comes back from C++ while the interpreter goes away would abort the process."""
    wait(list(_running), timeout=_EXIT_SECONDS)


atexit.register(_at_exit)
