"""Which endpoints work. One that keeps failing is left alone for a while, one that refuses is left alone for good."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence

from .endpoint import Endpoint
from .wire import Problem

_FAILURES_TO_REST = 3  # in a row, over all requests


class EndpointsRefuse(ValueError):
    """Every endpoint refuses for a reason that only the user can mend: a key, a model's name, a URL."""


class Circuits:
    """May be used from many threads. now: seconds of a clock that never goes back."""

    def __init__(
        self, endpoints: Sequence[Endpoint], rest_seconds: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._rest_seconds, self._now = rest_seconds, now
        self._failures = [0] * len(endpoints)
        self._rests_until = [0.0] * len(endpoints)
        self._refusals = [""] * len(endpoints)
        self._lock = threading.Lock()

    @property
    def refusals(self) -> dict[str, str]:
        """Endpoints that refuse, by name, and why."""
        with self._lock:
            return {e.name: said for e, said in zip(self._endpoints, self._refusals, strict=True) if said}

    def pick(self, tried: Collection[int]) -> int:
        """The number of the endpoint to ask: the first that neither rests nor is in `tried`, else the first that is up.

        If all rest, the one that is back first. One that failed too often is given to this request alone, which finds
        out whether it works again.

        Raises:
            EndpointsRefuse: none is left.
        """
        with self._lock:
            left = self._left()
            if not left:
                said = zip(self._endpoints, self._refusals, strict=True)
                raise EndpointsRefuse("; ".join(f"{e.name} refuses with {text} - {e.remedy}" for e, text in said))
            up = self._up(left)
            choice = [i for i in up if i not in tried] or up or [min(left, key=lambda i: self._rests_until[i])]
            if self._failures[choice[0]] >= _FAILURES_TO_REST:
                self._rests_until[choice[0]] = self._now() + self._rest_seconds
            return choice[0]

    def has_fresh(self, tried: Collection[int]) -> bool:
        """Whether an endpoint is up that is not in `tried`."""
        with self._lock:
            return any(i not in tried for i in self._up(self._left()))

    def _left(self) -> list[int]:
        return [i for i, refusal in enumerate(self._refusals) if not refusal]

    def _up(self, left: list[int]) -> list[int]:
        now = self._now()
        return [i for i in left if self._rests_until[i] <= now]

    def report(self, number: int, problem: Problem | None) -> None:
        """What became of a request to endpoint `number`; None if it was answered."""
        with self._lock:
            if problem is None or problem.kind == "request":  # it works, whatever it says of this request
                self._failures[number], self._rests_until[number] = 0, 0.0
                return
            self._failures[number] += 1
            if problem.kind == "refused":
                self._refusals[number] = problem.reason
                return
            failing = self._failures[number] >= _FAILURES_TO_REST
            rest = self._rest_seconds if failing else min(problem.wait_seconds, self._rest_seconds)
            self._rests_until[number] = self._now() + rest
