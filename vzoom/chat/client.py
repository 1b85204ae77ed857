"""The client: which endpoint is asked, how often, and when."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .budget import Budget, Charge
from .circuit import Circuits
from .endpoint import Endpoint
from .wire import Completion, Problem, post

Message = Mapping[str, Any]  # {"role": …, "content": text or parts}, as OpenAI spells it


@dataclass(frozen=True)
class Reply:
    """What a model replied. Token counts are the server's; if it gives none they are bytes, which are more.

    Args:
        text: of the reply.
        prompt_tokens: of the request.
        completion_tokens: of the reply.
        endpoint: its name.
        finish: "stop", or "length" if max_tokens cut the reply.
        cost: by the endpoint's prices.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    endpoint: str
    finish: str = "stop"
    cost: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reply:
        """As `to_json` gave it."""
        return cls(**data)


@dataclass(frozen=True)
class ChatFailed:
    """There is no usable reply.

    Args:
        reason: of the last attempt.
        num_attempts: over all endpoints.
    """

    reason: str
    num_attempts: int


class Chat:
    """Asks the first endpoint that works. May be used from many threads.

    A request that failed goes to the next endpoint at once. When it has failed at all of them, pause n is
    pause_seconds · 2^(n − 1), or what the server asks for. An endpoint that failed three times in a row is tried by one
    request every `rest_seconds`; the others pass it by.

    Args:
        endpoints: in the order in which they are tried.
        concurrency: requests in flight, over all endpoints.
        num_attempts: per request, over all endpoints.
        pause_seconds: the first pause.
        longest_pause_seconds: no pause is longer.
        jitter: a pause is up to this share longer, so that requests do not come back together.
        timeout_seconds: of each wait for the server.
        rest_seconds: how long an endpoint that keeps failing is left alone.
        budget: the cap on what is spent; None counts without a cap.
        stream: whether replies are streamed.
        tokens_per_image: most tokens that an image may cost, for the budget's worst case.
        sleep: waits so many seconds.

    Raises:
        ValueError: there is no endpoint, a number is out of range, or the budget cannot be kept with an endpoint.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        concurrency: int = 8,
        num_attempts: int = 6,
        pause_seconds: float = 1.0,
        longest_pause_seconds: float = 60.0,
        jitter: float = 0.25,
        timeout_seconds: float = 120.0,
        rest_seconds: float = 60.0,
        budget: Budget | None = None,
        stream: bool = False,
        tokens_per_image: int = 1024,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not endpoints:
            raise ValueError("a chat needs at least one endpoint")
        above_0 = {
            "concurrency": concurrency,
            "num_attempts": num_attempts,
            "longest_pause_seconds": longest_pause_seconds,
            "timeout_seconds": timeout_seconds,
        }
        for name, value in above_0.items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        for name, value in {"pause_seconds": pause_seconds, "jitter": jitter, "rest_seconds": rest_seconds}.items():
            if not value >= 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")
        self.budget = budget or Budget()
        for endpoint in endpoints:
            self.budget.check(endpoint)
        self.endpoints = tuple(endpoints)
        self._circuits = Circuits(endpoints, rest_seconds)
        self._slots = threading.BoundedSemaphore(concurrency)
        self._num_attempts, self._timeout_seconds, self._stream = num_attempts, timeout_seconds, stream
        self._pause_seconds, self._longest_pause_seconds, self._jitter = pause_seconds, longest_pause_seconds, jitter
        self._tokens_per_image = tokens_per_image
        self._sleep = sleep

    @property
    def refusals(self) -> dict[str, str]:
        """Endpoints that are not asked any more, by name, and why. A run continues as long as another is left."""
        return self._circuits.refusals

    def complete(
        self,
        messages: Sequence[Message],
        *,
        tag: str,
        task: str,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        max_tokens: int | None = 1024,
        check: Callable[[str], str | None] = lambda text: None,
    ) -> Reply | ChatFailed:
        """The model's reply to `messages`, or why there is none.

        Args:
            messages: as OpenAI spells them.
            tag: sent as metadata {"record": tag, "task": task}; "" sends none.
            task: see `tag`.
            stop: texts that end the reply.
            temperature: 0 is greedy.
            max_tokens: the most that the reply may take; None is the server's own limit, which no budget can include.
            check: says what is wrong with a text, which is then asked for again; None if it is fine.

        Raises:
            EndpointsRefuse: no endpoint is left. (A ValueError.)
            BudgetSpent: there is no room for a request.
            ValueError: there is a budget, and `max_tokens` is None.
        """
        if max_tokens is None and self.budget.is_capped:
            raise ValueError("a budget needs max_tokens for every request")
        body: dict[str, Any] = {"messages": list(messages), "temperature": temperature, "max_tokens": max_tokens}
        body |= {"stop": list(stop) or None, "stream": self._stream}
        if self._stream:
            body["stream_options"] = {"include_usage": True}
        if tag:
            body["metadata"] = {"record": tag, "task": task}
        worst = _largest(messages, self._tokens_per_image), max_tokens or 0
        attempt, num_pauses, is_retry = 0, 0, False
        tried: set[int] = set()
        while True:
            number = self._circuits.pick(tried)
            found = self._ask(number, body, worst, check, is_retry=is_retry)
            if isinstance(found, Reply):
                return found
            is_retry = True
            if found.kind != "refused":  # a refusal is no attempt: the request goes to the endpoints that are left
                attempt += 1
                if found.kind == "request" or attempt >= self._num_attempts:
                    return ChatFailed(found.reason, attempt)
                tried.add(number)
            if tried and not self._circuits.has_fresh(tried):
                num_pauses += 1
                self._sleep(self._pause(found, num_pauses, tag))
                tried.clear()

    def _ask(
        self,
        number: int,
        body: Mapping[str, Any],
        worst: tuple[int, int],
        check: Callable[[str], str | None],
        *,
        is_retry: bool,
    ) -> Reply | Problem:
        endpoint = self.endpoints[number]
        with (
            self._slots,
            self.budget.charge(
                endpoint, prompt_tokens=worst[0], completion_tokens=worst[1], is_retry=is_retry
            ) as charge,
        ):
            said = post(endpoint, body, timeout_seconds=self._timeout_seconds)
            if isinstance(said, Problem):
                found: Reply | Problem = said
                if said.charged is not None:
                    charge.settle(*said.charged)
            else:
                found = _bill(said, charge, endpoint, worst[0], check)
        self._circuits.report(number, found if isinstance(found, Problem) else None)
        return found

    def _pause(self, problem: Problem, number: int, tag: str) -> float:
        seed = hashlib.sha256(f"{tag}\n{number}".encode("utf-8", "surrogatepass")).digest()
        spread = 1 + self._jitter * int.from_bytes(seed[:4], "big") / 2**32
        pause = problem.wait_seconds or self._pause_seconds * 2 ** (number - 1)
        return min(pause * spread, self._longest_pause_seconds)


def _bill(
    found: Completion, charge: Charge, endpoint: Endpoint, most_prompt: int, check: Callable[[str], str | None]
) -> Reply | Problem:
    prompt = most_prompt if found.prompt_tokens is None else found.prompt_tokens
    completion = len(found.text.encode()) if found.completion_tokens is None else found.completion_tokens
    cost = charge.settle(prompt, completion).cost
    if problem := check(found.text):
        return Problem("passing", problem)
    return Reply(found.text, prompt, completion, endpoint.name, found.finish, cost)


def _largest(messages: Sequence[Message], tokens_per_image: int) -> int:
    """More tokens than any tokenizer makes of these messages: their bytes, and `tokens_per_image` for each image."""
    total = 0
    for message in messages:
        content = message.get("content") or ""
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            text = part.get("text") if part.get("type") == "text" else None
            total += tokens_per_image if text is None else len(text.encode("utf-8", "surrogatepass"))
        total += 16  # what a chat template puts around it
    return total
