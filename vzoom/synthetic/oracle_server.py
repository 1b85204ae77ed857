"""The oracle of the world as an expert behind a real HTTP server that speaks OpenAI's chat completions.

It keeps nothing of a conversation: metadata.record says what the question is about, the messages say what was seen.
For distillation, reflection and their tests without a paid model; `python -m vzoom.world.oracle_server --help`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..config import ZoomConfig
from ..protocol import parse_turn
from ..types import ZoomCall
from .dataset import facts_of, zooms_allowed
from .families import FAMILIES
from .faults import Fault, Faults
from .oracle import next_turn
from .oracle_http import ChatServer, Message, num_images, text_of
from .questions import config_for
from .spec import WorldConfig


@dataclass(frozen=True)
class Served:
    """One request, in the order of arrival. digest: of all that it says, to tell whether it came twice."""

    record: str
    task: str
    digest: str
    fault: Fault | None


class OracleServer:
    """with OracleServer(world, zoom) as server: … server.url, the base URL, as http://127.0.0.1:1234/v1.

    world: of all families, or of each. zoom: what the conversations are held under. key: asked for, where it is set.
    latency_seconds: what every reply takes.
    """

    model = "oracle"

    def __init__(
        self,
        world: WorldConfig | Mapping[str, WorldConfig],
        zoom: ZoomConfig,
        *,
        port: int = 0,
        key: str | None = None,
        faults: Faults | None = None,
        latency_seconds: float = 0.0,
    ) -> None:
        self.world, self.zoom, self.key = world, zoom, key
        self.faults, self.latency_seconds = faults or Faults(), latency_seconds
        self.log: list[Served] = []
        self._whole: Counter[str] = Counter()
        self.most_at_once = 0
        self.closing = threading.Event()
        self._at_once = 0
        self._lock = threading.Lock()
        self._http = ChatServer(("127.0.0.1", port), self)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

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

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def begin(self, record: str, task: str, digest: str) -> Fault | None:
        """Takes down a request; says what befalls it."""
        with self._lock:
            occurrence = sum(served.record == record for served in self.log)
            fault = self.faults.befalling(len(self.log), record, occurrence)
            self.log.append(Served(record, task, digest, fault))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        self.closing.wait(self.latency_seconds)
        return fault

    def end(self, digest: str, *, is_whole: bool) -> None:
        with self._lock:
            self._at_once -= 1
            self._whole[digest] += is_whole

    def reply(self, record: str, messages: Sequence[Message]) -> str:
        """What the oracle writes behind these messages, whoever wrote them. ValueError for an unknown record."""
        video, question = facts_of(record, self.world)
        written = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        calls = []
        for i in written:
            call = parse_turn(text_of(messages[i]))
            if isinstance(call, ZoomCall) and i + 1 < len(messages) and num_images(messages[i + 1]):
                calls.append(call)
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(record.encode()).digest()[:8], "big"))
        zooms_left = zooms_allowed(record, self.zoom) - len(written)
        return next_turn(video, question, self.zoom, calls, zooms_left=zooms_left, rng=rng).text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m vzoom.world.oracle_server", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="on 127.0.0.1; 0 takes any free one (default: 8000)")
    parser.add_argument(
        "--world",
        type=Path,
        metavar="FILE",
        help="JSON with the fields of the data set's WorldConfig, for all families or as {family: fields} "
        "(default: each family's own world)",
    )
    parser.add_argument("--zoom", type=Path, metavar="FILE", help="vzoom.json of the model (default: VideoZoomer's)")
    parser.add_argument("--key", help="asked for as a bearer token")
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="seconds that every reply takes")
    parser.add_argument("--fault-rate", type=float, default=0.0, metavar="P", help="share of requests that fail")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the faults")
    options = parser.parse_args(arguments)
    zoom = ZoomConfig.from_dict(json.loads(options.zoom.read_text()), str(options.zoom)) if options.zoom else None
    server = OracleServer(
        _world(json.loads(options.world.read_text()) if options.world else {}),
        zoom or ZoomConfig(),
        port=options.port,
        key=options.key,
        faults=Faults(rate=options.fault_rate, seed=options.seed),
        latency_seconds=options.latency,
    )
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # set here: a shell's background jobs begin with SIGINT ignored
        signal.signal(number, lambda *_: over.set())
    with server:
        print(server.url, flush=True)
        over.wait()
    print(f"{server.requests.total()} requests", flush=True)


def _world(fields: Mapping[str, Any]) -> WorldConfig | dict[str, WorldConfig]:
    if not fields:
        return {family: config_for(family) for family in FAMILIES}
    if set(fields) <= set(FAMILIES):
        return {family: WorldConfig(**_tuples(of_family)) for family, of_family in fields.items()}
    return WorldConfig(**_tuples(fields))


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


if __name__ == "__main__":
    main()
