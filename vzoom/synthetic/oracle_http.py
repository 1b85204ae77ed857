"""OpenAI's chat completions over HTTP, for whatever writes the replies: parsing, streaming, and faults on purpose."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from .faults import Fault, Faults

Message = Mapping[str, Any]

_LARGEST_REQUEST_BYTES = 256 << 20


class Expert(Protocol):
    """What the server asks. closing: set when it goes down, so that nothing waits any longer."""

    model: str
    key: str | None
    faults: Faults
    closing: threading.Event

    def begin(self, record: str, task: str, digest: str) -> Fault | None:
        """A request came, `digest` tells equal ones; what befalls it."""

    def end(self, digest: str, *, is_whole: bool) -> None:
        """Its reply was sent, whole or not."""

    def reply(self, record: str, messages: Sequence[Message]) -> str:
        """ValueError for a record that it does not know."""


class ChatServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], expert: Expert) -> None:
        self.expert = expert
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is its own affair. Anything else is a defect and is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@dataclass(frozen=True)
class _Response:
    """`body` is written piece by piece. is_whole: it is what was asked for, all of it."""

    code: int
    headers: dict[str, str]
    body: tuple[bytes, ...]
    is_whole: bool = False


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.rstrip("/") == "/v1/models":
            model = {"id": self.server.expert.model, "object": "model", "owned_by": "vzoom"}
            self._send(_json(200, {"object": "list", "data": [model]}))
        else:
            self._send(_error(404, f"no such path: {self.path}"))

    def do_POST(self) -> None:
        expert = self.server.expert
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > _LARGEST_REQUEST_BYTES:
            return self._send(_error(413, f"Content-Length must be at most {_LARGEST_REQUEST_BYTES}, not {length!r}"))
        body = self.rfile.read(int(length))  # always, or closing would reset the connection under the client
        if self.path.rstrip("/") != "/v1/chat/completions":
            return self._send(_error(404, f"no such path: {self.path}"))
        if expert.key is not None and self.headers.get("Authorization") != f"Bearer {expert.key}":
            return self._send(_error(401, "wrong key"))
        try:
            asked = json.loads(body)
            record, task = (str(asked["metadata"][name]) for name in ("record", "task"))
            roles = [message["role"] for message in asked["messages"] if text_of(message) or num_images(message)]
        except (ValueError, LookupError, TypeError, RecursionError):
            return self._send(_error(400, "expected JSON with messages and metadata {record, task}"))
        if not roles or roles[-1] != "user":
            return self._send(_error(400, "the last message must be the user's"))
        digest = hashlib.sha256(body).hexdigest()
        fault = expert.begin(record, task, digest)
        response = None
        try:
            response = _respond(expert, asked, record, fault)
        finally:  # before it is sent: the client may come back at once
            expert.end(digest, is_whole=response is not None and response.is_whole)
        self._send(response)

    def _send(self, response: _Response | None) -> None:
        """None: hangs up."""
        self.close_connection = True
        if response is None:
            return
        self.send_response(response.code)
        for name, value in {**response.headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in response.body:
            self.wfile.write(piece)

    def log_message(self, *_: Any) -> None:
        """Quiet: `begin` and `end` are told."""


def _respond(expert: Expert, asked: Mapping[str, Any], record: str, fault: Fault | None) -> _Response | None:
    if fault is Fault.DROPPED:
        return None
    if fault is Fault.BUSY:
        return _error(429, "busy", {"Retry-After": str(expert.faults.retry_after_seconds)})
    if fault is Fault.BROKEN:
        return _error(500, "broken")
    if fault is Fault.SLOW:
        expert.closing.wait(expert.faults.slow_seconds)
    messages = asked["messages"]
    try:
        text = expert.reply(record, messages)
    except ValueError as error:
        return _error(404, str(error))
    text, finish = _limit(text, asked.get("stop") or [], asked.get("max_tokens"))
    pieces = [] if fault is Fault.EMPTY else _pieces(text)
    prompt = sum(len(_pieces(text_of(m))) + num_images(m) for m in messages)
    usage = {"prompt_tokens": prompt, "completion_tokens": len(pieces), "total_tokens": prompt + len(pieces)}
    frame = {"id": f"chatcmpl-{record}", "created": int(time.time()), "model": asked.get("model", expert.model)}
    if not asked.get("stream"):
        message = {"role": "assistant", "content": "".join(pieces)}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        data = {**frame, "object": "chat.completion", "choices": [choice], "usage": usage}
        return _spoil(_json(200, data), fault)
    deltas: list[tuple[dict[str, str], str | None]] = [({"content": piece}, None) for piece in pieces]
    choices = [[{"index": 0, "delta": d, "finish_reason": f}] for d, f in [*deltas, ({}, finish)]]
    events = [{**frame, "object": "chat.completion.chunk", "choices": c} for c in choices]
    if (asked.get("stream_options") or {}).get("include_usage"):
        events.append({**frame, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    lines = [f"data: {event}\n\n".encode() for event in [*map(json.dumps, events), "[DONE]"]]
    return _spoil(_Response(200, {"Content-Type": "text/event-stream"}, tuple(lines), is_whole=True), fault)


def _json(code: int, data: Any, headers: Mapping[str, str] | None = None) -> _Response:
    body = json.dumps(data).encode()
    always = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return _Response(code, {**always, **(headers or {})}, (body,), is_whole=code == 200)


def _error(code: int, message: str, headers: Mapping[str, str] | None = None) -> _Response:
    return _json(code, {"error": {"message": message, "type": "server_error", "code": code}}, headers)


def _spoil(response: _Response, fault: Fault | None) -> _Response:
    """A good reply with the faults that lie in its bytes."""
    if fault in (None, Fault.SLOW):
        return response
    body = response.body
    if fault is Fault.MALFORMED:
        body = tuple(piece.replace(b'"choices"', b'"choices ', 1) for piece in body)  # as long as before, and no JSON
    elif len(body) == 1 and fault is not Fault.EMPTY:
        body = (body[0][: len(body[0]) // 2],)
    elif fault is Fault.TRUNCATED:
        body = (*body[:1], body[1][: len(body[1]) // 2])
    elif fault is Fault.CUT:
        body = body[: max(1, (len(body) - 3) // 2)]  # before anything says that it is the end
    return replace(response, body=body, is_whole=False)


def _parts(message: Message) -> list[Mapping[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def text_of(message: Message) -> str:
    return "".join(part["text"] for part in _parts(message) if part["type"] == "text")


def num_images(message: Message) -> int:
    return sum(part["type"] == "image_url" for part in _parts(message))


def _pieces(text: str) -> list[str]:
    """Words with the space before them: what this server calls tokens."""
    return re.findall(r"\s*\S+", text)


def _limit(text: str, stop: str | Sequence[str], max_tokens: int | None) -> tuple[str, str]:
    """The text up to the first stop string, which is left out as OpenAI does, or to max_tokens; and finish_reason."""
    for end in [stop] if isinstance(stop, str) else stop:
        text = text.partition(end)[0]
    pieces = _pieces(text)
    if max_tokens is not None and len(pieces) > max_tokens:
        return "".join(pieces[:max_tokens]), "length"
    return text, "stop"
