"""A real HTTP server that answers what a test scripts, whatever is asked: for clients of chat completions."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Scripted = tuple[int, dict[str, str], bytes] | str  # or what happens instead: "hang", "garbage", "hang up"


def said(content: Any, **more: Any) -> Scripted:
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}], **more}).encode()


def error(code: int, body: bytes = b'{"error": "no"}', **headers: str) -> Scripted:
    return code, {name.replace("_", "-"): value for name, value in headers.items()}, body


def streamed(events: Sequence[Any], *, done: bool = True) -> Scripted:
    """Server-sent events; a str is a line as it stands."""
    lines = [event if isinstance(event, str) else f"data: {json.dumps(event)}" for event in events]
    body = "".join(f"{line}\n\n" for line in [*lines, *(["data: [DONE]"] if done else [])])
    return 200, {"Content-Type": "text/event-stream; charset=utf-8"}, body.encode()


def delta(content: str | None, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]}


class ScriptedServer(ThreadingHTTPServer):
    """replies: taken from the front. requests: (path, headers, body) as they came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: list[Scripted] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.release = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, dict(self.headers), body))
        reply = self.server.replies.pop(0)
        if reply == "hang":
            self.server.release.wait(30)
            return
        if reply == "garbage":
            self.wfile.write(b"this is no HTTP\r\n\r\n")
            return
        if reply == "hang up":
            return
        assert not isinstance(reply, str)
        self.send_response(reply[0])
        for name, value in {"Content-Length": str(len(reply[2])), **reply[1]}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply[2])

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers), {}))
        self.send_error(404)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
