"""The oracle as an expert behind a real HTTP server that speaks OpenAI's chat completions.

It remembers nothing of a conversation: metadata.record says what the question is about, the messages say what was seen.
For distillation and reflection without a paid model; `python -m vzoom.synthetic.oracle_server --help`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..config import ZoomConfig
from ..protocol import parse_turn
from ..types import ZoomCall, calls_of
from .dataset import facts_of, zooms_allowed
from .families import FAMILIES
from .oracle import next_turn
from .oracle_http import ChatHandler, ChatServer, Message, num_images, text_of
from .questions import config_for
from .spec import SyntheticConfig


class OracleServer:
    """Serves the oracle while its `with` block is open; `url` is the base URL, as http://127.0.0.1:1234/v1.

    `num_requests` counts the replies asked of it.

    Args:
        config: of the data set's videos: one for all families, or one per family.
        zoom: the limits of the conversations.
        port: on 127.0.0.1; 0 takes a free one.
        key: asked for as a bearer token; None asks for none.
    """

    model = "oracle"
    handler: type[ChatHandler] = ChatHandler

    def __init__(
        self,
        config: SyntheticConfig | Mapping[str, SyntheticConfig],
        zoom: ZoomConfig,
        *,
        port: int = 0,
        key: str | None = None,
    ) -> None:
        self.config, self.zoom, self.key = config, zoom, key
        self.num_requests = 0
        self._lock = threading.Lock()
        self._http = ChatServer(("127.0.0.1", port), self, self.handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        """The base URL that a client is given."""
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def reply(self, record: str, messages: Sequence[Message]) -> str:
        """What the oracle writes after these messages, whoever wrote them.

        Args:
            record: id of the record that they are about.
            messages: the conversation so far.

        Raises:
            ValueError: it knows no such record.
        """
        with self._lock:
            self.num_requests += 1
        video, question = facts_of(record, self.config)
        written = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        calls: list[ZoomCall] = []
        protocol = self.zoom.protocol
        for i in written:
            outcome = parse_turn(text_of(messages[i]), protocol, video_fps=video.info().fps)
            if i + 1 < len(messages) and num_images(messages[i + 1]):
                calls += calls_of(outcome)
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(record.encode()).digest()[:8], "big"))
        zooms_left = zooms_allowed(record, self.zoom) - len(written)
        return next_turn(video, question, self.zoom, calls, zooms_left=zooms_left, rng=rng).text(protocol)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m vzoom.synthetic.oracle_server", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="on 127.0.0.1; 0 takes any free one (default: 8000)")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="JSON with the fields of the data set's SyntheticConfig, for all families or as {family: fields} "
        "(default: each family's own)",
    )
    parser.add_argument("--zoom", type=Path, metavar="FILE", help="vzoom.json of the model (default: VideoZoomer's)")
    parser.add_argument("--key", help="asked for as a bearer token")
    options = parser.parse_args(arguments)
    zoom = ZoomConfig.from_dict(json.loads(options.zoom.read_text()), str(options.zoom)) if options.zoom else None
    server = OracleServer(
        _configs(json.loads(options.config.read_text()) if options.config else {}),
        zoom or ZoomConfig(),
        port=options.port,
        key=options.key,
    )
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # set here: a shell starts background commands with SIGINT ignored
        signal.signal(number, lambda *_: over.set())
    with server:
        print(server.url, flush=True)
        over.wait()
    print(f"{server.num_requests} requests", flush=True)


def _configs(fields: Mapping[str, Any]) -> SyntheticConfig | dict[str, SyntheticConfig]:
    if not fields:
        return {family: config_for(family) for family in FAMILIES}
    if set(fields) <= set(FAMILIES):
        return {family: SyntheticConfig(**_tuples(of_family)) for family, of_family in fields.items()}
    return SyntheticConfig(**_tuples(fields))


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


if __name__ == "__main__":
    main()
