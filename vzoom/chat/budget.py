"""What a run spends at its endpoints, and the cap on it.

Before a request is sent, its worst case is set aside: as many prompt tokens as it has bytes, and all the completion
tokens that it allows. So the cap holds, whatever comes back. A lost reply may have been charged: its worst case stays
counted, under its own name.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

from .endpoint import Endpoint


class BudgetSpent(RuntimeError):
    """The cap leaves no room for another request. None was sent."""


@dataclass(frozen=True)
class Usage:
    """Counters of one endpoint, or of several added up.

    Args:
        requests: that were sent.
        retries: how many of them because an earlier one failed.
        prompt_tokens: that were charged; so are completion_tokens.
        cost: of these, by the endpoint's prices.
        lost_tokens: at most so many were charged for replies that never came. Not in the other numbers.
        lost_cost: of these.
    """

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    lost_tokens: int = 0
    lost_cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def tokens(self) -> int:
        """What counts towards max_tokens."""
        return self.prompt_tokens + self.completion_tokens + self.lost_tokens

    @property
    def total_cost(self) -> float:
        """What counts towards max_cost."""
        return self.cost + self.lost_cost

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Usage:
        """As `to_json` gave it."""
        return cls(**data)


class Charge:
    """One request's entry. If nobody calls `settle`, it counts as lost."""

    def __init__(self, endpoint: Endpoint, prompt_tokens: int, completion_tokens: int) -> None:
        self._endpoint = endpoint
        self.worst_tokens = prompt_tokens + completion_tokens
        self.worst_cost = endpoint.cost(prompt_tokens, completion_tokens)
        self.usage: Usage | None = None

    def settle(self, prompt_tokens: int, completion_tokens: int) -> Usage:
        """Say what the request was charged."""
        cost = self._endpoint.cost(prompt_tokens, completion_tokens)
        self.usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cost=cost)
        return self.usage


class Budget:
    """Counts what is spent, and keeps it below a cap. May be used from many threads.

    Args:
        max_cost: the cap, in the currency of the endpoints' prices; None is none.
        max_tokens: the cap in tokens; None is none.
        start: what earlier runs spent, by endpoint name (`usage` as they saved it).

    Raises:
        ValueError: a cap is not above 0.
    """

    def __init__(
        self, *, max_cost: float | None = None, max_tokens: int | None = None, start: Mapping[str, Usage] | None = None
    ) -> None:
        for name, cap in (("max_cost", max_cost), ("max_tokens", max_tokens)):
            if cap is not None and not (math.isfinite(cap) and cap > 0):
                raise ValueError(f"{name} must be above 0, got {cap}")
        self.max_cost, self.max_tokens = max_cost, max_tokens
        self._usage = dict(start or {})
        self._set_aside: list[Charge] = []
        self._changed = threading.Condition()

    @property
    def usage(self) -> dict[str, Usage]:
        """By endpoint name, without what is in flight."""
        with self._changed:
            return dict(self._usage)

    @property
    def total(self) -> Usage:
        """Of all endpoints."""
        return sum(self.usage.values(), Usage())

    @property
    def is_capped(self) -> bool:
        """Whether there is a cap."""
        return self.max_cost is not None or self.max_tokens is not None

    def check(self, endpoint: Endpoint) -> None:
        """ValueError if the cap could not be kept with this endpoint: its prices are unknown."""
        if self.max_cost is not None and (endpoint.price_in is None or endpoint.price_out is None):
            where = f"{endpoint.variables}_PRICE_IN and _PRICE_OUT" if endpoint.variables else "price_in and price_out"
            raise ValueError(
                f"a cap on the cost needs prices of {endpoint.name}: set {where} (per million tokens, 0 if free)"
            )

    @contextmanager
    def charge(
        self, endpoint: Endpoint, *, prompt_tokens: int, completion_tokens: int, is_retry: bool
    ) -> Iterator[Charge]:
        """Set aside one request of at most this size. Waits while requests in flight may still leave room for it.

        Raises:
            BudgetSpent: there is no room, and nothing is in flight.
        """
        charge = Charge(endpoint, prompt_tokens, completion_tokens)
        with self._changed:
            while over := self._over(charge):
                if not self._set_aside:
                    raise BudgetSpent(over)
                self._changed.wait()
            self._set_aside.append(charge)
        try:
            yield charge
        finally:
            lost = Usage(lost_tokens=charge.worst_tokens, lost_cost=charge.worst_cost)
            spent = Usage(requests=1, retries=int(is_retry)) + (charge.usage or lost)
            with self._changed:
                self._set_aside.remove(charge)
                self._usage[endpoint.name] = self._usage.get(endpoint.name, Usage()) + spent
                self._changed.notify_all()

    def _over(self, charge: Charge) -> str:
        """Which cap this request could pass, "" for none."""
        spent = sum(self._usage.values(), Usage())
        tokens = spent.tokens + sum(c.worst_tokens for c in self._set_aside)
        cost = spent.total_cost + sum(c.worst_cost for c in self._set_aside)
        if self.max_tokens is not None and tokens + charge.worst_tokens > self.max_tokens:
            return (
                f"{spent.tokens} of {self.max_tokens} tokens are spent and the next request may take "
                f"{charge.worst_tokens}: raise the cap to continue"
            )
        if self.max_cost is not None and cost + charge.worst_cost > self.max_cost:
            return (
                f"{spent.total_cost:.4f} of {self.max_cost:g} is spent and the next request may cost "
                f"{charge.worst_cost:.4f}: raise the cap to continue"
            )
        return ""
