"""OpenAI's chat completions over HTTP, for whatever writes the replies: parsing, stop strings, limits, streaming."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

Message = Mapping[str, Any]

_LARGEST_REQUEST_BYTES = 256 << 20


class ReplyWriter(Protocol):
    """Who writes the replies. key: asked for as a bearer token; None asks for none."""

    model: str
    key: str | None

    def reply(self, record: str, messages: Sequence[Message]) -> str:
        """The next turn of the conversation about `record`. ValueError for a record that it does not know."""


class ChatServer(ThreadingHTTPServer):
    """Serves `writer` at `address`. handler: what answers a request."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], writer: ReplyWriter, handler: type[ChatHandler]) -> None:
        self.writer = writer
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is its own affair. Anything else is a defect and is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@dataclass(frozen=True)
class Response:
    """`body` is written piece by piece."""

    code: int
    headers: dict[str, str]
    body: tuple[bytes, ...]


@dataclass(frozen=True)
class ChatRequest:
    """asked: the body, as JSON says it. record, task: of its metadata. body: its bytes."""

    asked: Mapping[str, Any]
    record: str
    task: str
    body: bytes


class ChatHandler(BaseHTTPRequestHandler):
    """One connection: checks what comes in, and sends what `respond` makes of it."""

    server: ChatServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.rstrip("/") == "/v1/models":
            model = {"id": self.server.writer.model, "object": "model", "owned_by": "vzoom"}
            self.send(_json(200, {"object": "list", "data": [model]}))
        else:
            self.send(error(404, f"no such path: {self.path}"))

    def do_POST(self) -> None:
        key = self.server.writer.key
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > _LARGEST_REQUEST_BYTES:
            return self.send(error(413, f"Content-Length must be at most {_LARGEST_REQUEST_BYTES}, not {length!r}"))
        body = self.rfile.read(int(length))  # always, or closing would reset the connection under the client
        if self.path.rstrip("/") != "/v1/chat/completions":
            return self.send(error(404, f"no such path: {self.path}"))
        if key is not None and self.headers.get("Authorization") != f"Bearer {key}":
            return self.send(error(401, "wrong key"))
        try:
            asked = json.loads(body)
            record, task = (str(asked["metadata"][name]) for name in ("record", "task"))
            roles = [message["role"] for message in asked["messages"] if text_of(message) or num_images(message)]
        except (ValueError, LookupError, TypeError, RecursionError):
            return self.send(error(400, "expected JSON with messages and metadata {record, task}"))
        if not roles or roles[-1] != "user":
            return self.send(error(400, "the last message must be the user's"))
        self.respond(ChatRequest(asked, record, task, body))

    def respond(self, request: ChatRequest) -> None:
        """Answer a request that is well formed."""
        self.send(completion(self.server.writer, request))

    def send(self, response: Response) -> None:
        self.close_connection = True
        self.send_response(response.code)
        for name, value in {**response.headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in response.body:
            self.wfile.write(piece)

    def log_message(self, *_: Any) -> None:
        """Write no line per request."""


def completion(writer: ReplyWriter, request: ChatRequest) -> Response:
    """The writer's reply as a chat completion, whole or as a stream; a 404 for an unknown record."""
    asked = request.asked
    messages = asked["messages"]
    try:
        text = writer.reply(request.record, messages)
    except ValueError as problem:
        return error(404, str(problem))
    text, finish = _limit(text, asked.get("stop") or [], asked.get("max_tokens"))
    pieces = _pieces(text)
    prompt = sum(len(_pieces(text_of(m))) + num_images(m) for m in messages)
    usage = {"prompt_tokens": prompt, "completion_tokens": len(pieces), "total_tokens": prompt + len(pieces)}
    name = asked.get("model", writer.model)
    frame = {"id": f"chatcmpl-{request.record}", "created": int(time.time()), "model": name}
    if not asked.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "".join(pieces)}, "finish_reason": finish}
        return _json(200, {**frame, "object": "chat.completion", "choices": [choice], "usage": usage})
    deltas: list[tuple[dict[str, str], str | None]] = [({"content": piece}, None) for piece in pieces]
    choices = [[{"index": 0, "delta": d, "finish_reason": f}] for d, f in [*deltas, ({}, finish)]]
    events = [{**frame, "object": "chat.completion.chunk", "choices": c} for c in choices]
    if (asked.get("stream_options") or {}).get("include_usage"):
        events.append({**frame, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    lines = [f"data: {event}\n\n".encode() for event in [*map(json.dumps, events), "[DONE]"]]
    return Response(200, {"Content-Type": "text/event-stream"}, tuple(lines))


def _json(code: int, data: Any, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(data).encode()
    always = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return Response(code, {**always, **(headers or {})}, (body,))


def error(code: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as OpenAI words it."""
    return _json(code, {"error": {"message": message, "type": "server_error", "code": code}}, headers)


def _parts(message: Message) -> list[Mapping[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def text_of(message: Message) -> str:
    """All text of a message."""
    return "".join(part["text"] for part in _parts(message) if part["type"] == "text")


def num_images(message: Message) -> int:
    """How many images a message holds."""
    return sum(part["type"] == "image_url" for part in _parts(message))


def _pieces(text: str) -> list[str]:
    """Words with the space before them: this server's tokens."""
    return re.findall(r"\s*\S+", text)


def _limit(text: str, stop: str | Sequence[str], max_tokens: int | None) -> tuple[str, str]:
    """The text up to the first stop string, which is left out as OpenAI does, or to max_tokens; and finish_reason."""
    for end in [stop] if isinstance(stop, str) else stop:
        text = text.partition(end)[0]
    pieces = _pieces(text)
    if max_tokens is not None and len(pieces) > max_tokens:
        return "".join(pieces[:max_tokens]), "length"
    return text, "stop"
