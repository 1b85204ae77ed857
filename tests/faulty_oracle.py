"""The oracle's server as tests need it: it writes down what was asked, is slow, and fails on purpose.

A fault can be repeated: it comes by the number of the request, or at a seeded rate.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar

from vzoom.config import ZoomConfig
from vzoom.synthetic.oracle_http import ChatHandler, ChatRequest, Message, Response, completion, error
from vzoom.synthetic.oracle_server import OracleServer
from vzoom.synthetic.spec import SyntheticConfig


class Fault(StrEnum):
    BUSY = "busy"  # 429 with Retry-After
    BROKEN = "broken"  # 500
    DROPPED = "dropped"  # the connection closes without a reply
    SLOW = "slow"  # the right reply, slow_seconds late
    MALFORMED = "malformed"  # 200 with what is no chat completion
    TRUNCATED = "truncated"  # the reply ends in the middle of its JSON
    EMPTY = "empty"  # a completion without text
    CUT = "cut"  # the stream ends between two of its chunks; without a stream the same as truncated


@dataclass(frozen=True)
class Faults:
    """plan: by the number of the request, from 0 over all. rate: of the requests that the plan does not name.

    Which of them, and what of `kinds` befalls them, follows from seed, the record, and how often it was asked about:
    the order in which threads come does not matter.
    """

    plan: Mapping[int, Fault] = field(default_factory=dict)
    rate: float = 0.0
    seed: int = 0
    kinds: tuple[Fault, ...] = tuple(Fault)
    retry_after_seconds: int = 1
    slow_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate must be 0 or more and below 1, got {self.rate}")
        if not self.kinds:
            raise ValueError("kinds must name at least one fault")

    def befalling(self, number: int, record: str, occurrence: int) -> Fault | None:
        """What befalls request `number`, the one about `record` that came after `occurrence` others; None: nothing."""
        if number in self.plan:
            return self.plan[number]
        drawn = hashlib.sha256(f"{self.seed}\n{record}\n{occurrence}".encode()).digest()
        if int.from_bytes(drawn[:8], "big") >= self.rate * 2**64:
            return None
        return self.kinds[int.from_bytes(drawn[8:16], "big") % len(self.kinds)]


@dataclass(frozen=True)
class Served:
    """One request, in the order of arrival. digest: of all that it says, to tell whether it came twice."""

    record: str
    task: str
    digest: str
    fault: Fault | None


class _Silent:
    """Writes replies without text."""

    model, key = "oracle", None

    def reply(self, record: str, messages: Sequence[Message]) -> str:
        return ""


class _FaultyHandler(ChatHandler):
    def respond(self, request: ChatRequest) -> None:
        oracle = self.server.writer
        assert isinstance(oracle, FaultyOracle)
        digest = hashlib.sha256(request.body).hexdigest()
        fault = oracle.begin(request, digest)
        response, is_whole = None, False
        try:
            response, is_whole = _respond(oracle, request, fault)
        finally:  # before it is sent: the client may come back at once
            oracle.end(digest, is_whole=is_whole)
        if response is None:
            self.close_connection = True
        else:
            self.send(response)


class FaultyOracle(OracleServer):
    """latency_seconds: what every reply takes. most_at_once: requests in flight, at most, so far."""

    handler: ClassVar[type[ChatHandler]] = _FaultyHandler

    def __init__(
        self,
        config: SyntheticConfig | Mapping[str, SyntheticConfig],
        zoom: ZoomConfig,
        *,
        faults: Faults | None = None,
        latency_seconds: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(config, zoom, **settings)
        self.faults, self.latency_seconds = faults or Faults(), latency_seconds
        self.log: list[Served] = []
        self.most_at_once = 0
        self.closing = threading.Event()
        self._whole: Counter[str] = Counter()
        self._at_once = 0

    @property
    def requests(self) -> Counter[str]:
        """How many requests came for each record, those that a fault befell among them."""
        with self._lock:
            return Counter(served.record for served in self.log)

    @property
    def replies(self) -> Counter[str]:
        """How often each request, by its digest, was given its whole reply: nothing is paid twice where all are 1."""
        with self._lock:
            return Counter(self._whole)

    def __exit__(self, *arguments: object) -> None:
        self.closing.set()
        super().__exit__(*arguments)

    def begin(self, request: ChatRequest, digest: str) -> Fault | None:
        """Takes down a request; says what befalls it."""
        with self._lock:
            occurrence = sum(served.record == request.record for served in self.log)
            fault = self.faults.befalling(len(self.log), request.record, occurrence)
            self.log.append(Served(request.record, request.task, digest, fault))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        self.closing.wait(self.latency_seconds)
        return fault

    def end(self, digest: str, *, is_whole: bool) -> None:
        with self._lock:
            self._at_once -= 1
            self._whole[digest] += is_whole


def _respond(oracle: FaultyOracle, request: ChatRequest, fault: Fault | None) -> tuple[Response | None, bool]:
    """The response, None to hang up; and whether it is what was asked for, all of it."""
    match fault:
        case Fault.DROPPED:
            return None, False
        case Fault.BUSY:
            return error(429, "busy", {"Retry-After": str(oracle.faults.retry_after_seconds)}), False
        case Fault.BROKEN:
            return error(500, "broken"), False
        case Fault.EMPTY:
            return completion(_Silent(), request), False
        case Fault.SLOW:
            oracle.closing.wait(oracle.faults.slow_seconds)
    response = completion(oracle, request)
    if response.code != 200 or fault in (None, Fault.SLOW):
        return response, response.code == 200
    return _spoiled(response, fault), False


def _spoiled(response: Response, fault: Fault) -> Response:
    """A good reply with the faults that lie in its bytes."""
    body = response.body
    if fault is Fault.MALFORMED:
        body = tuple(piece.replace(b'"choices"', b'"choices ', 1) for piece in body)  # as long as before, and no JSON
    elif len(body) == 1:
        body = (body[0][: len(body[0]) // 2],)
    elif fault is Fault.TRUNCATED:
        body = (*body[:1], body[1][: len(body[1]) // 2])
    elif fault is Fault.CUT:
        body = body[: max(1, (len(body) - 3) // 2)]  # before anything says that it is the end
    return replace(response, body=body)
