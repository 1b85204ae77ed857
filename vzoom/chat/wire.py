"""One request to one endpoint, and what became of it: a Completion or a Problem, never an exception."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from http.client import HTTPException, HTTPResponse
from typing import Any, Literal
from urllib.parse import urlsplit

from .endpoint import Endpoint
from .masking import MASK, masked

_LARGEST_REPLY_BYTES = 4 << 20
_SAID_BYTES = 4000  # of what a server says is wrong
_REASON_LENGTH = 440
_KEY_LENGTH = 12
_MENDABLE = {301, 302, 303, 307, 308, 401, 402, 403, 404, 405}  # only the user can mend these
_PASSING = {408, 409, 425, 429}  # and 5xx
_PERHAPS_CHARGED = {408, 502, 504, 524}  # a gateway gave up; the model it asked may not have


@dataclass(frozen=True)
class Completion:
    """finish: "stop", "length" … as the server says. Token counts are None if it does not say."""

    text: str
    finish: str
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True)
class Problem:
    """Why there is no completion.

    Args:
        kind: it may pass by itself, something is wrong with this request, or the endpoint refuses every request.
        reason: as the server says it.
        wait_seconds: that the server asks for, or 0.
        charged: tokens (prompt, completion); None if it is unknown.
    """

    kind: Literal["passing", "request", "refused"]
    reason: str
    wait_seconds: float = 0.0
    charged: tuple[int, int] | None = None


def post(endpoint: Endpoint, body: Mapping[str, Any], *, timeout_seconds: float) -> Completion | Problem:
    """Send `body` with the endpoint's model and options. timeout_seconds: of each wait for the server."""
    found = _post(endpoint, body, timeout_seconds)
    if isinstance(found, Problem):  # some servers say the key back; half of it could not be found any more
        return replace(found, reason=masked(found.reason, endpoint.key)[:_REASON_LENGTH])
    if endpoint.key and len(endpoint.key) >= _KEY_LENGTH:  # what a model says is kept, and shorter ones are words
        return replace(found, text=found.text.replace(endpoint.key, MASK))
    return found


def _post(endpoint: Endpoint, body: Mapping[str, Any], timeout_seconds: float) -> Completion | Problem:
    fields = {"model": endpoint.model, **body, **endpoint.options}
    fields = {name: value for name, value in fields.items() if value is not None}
    headers = {"Content-Type": "application/json", "User-Agent": "vzoom"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    request = urllib.request.Request(
        endpoint.url.rstrip("/") + "/chat/completions", json.dumps(fields).encode(), headers, method="POST"
    )
    try:
        opener = _NEAR if urlsplit(endpoint.url).hostname in _LOOPBACK else _OPENER
        with opener.open(request, timeout=timeout_seconds) as reply:
            if reply.headers.get_content_type() == "text/event-stream":
                return _read_stream(reply)
            return _read_whole(reply.read(_LARGEST_REPLY_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            return _refusal(error, fields)
    except (OSError, HTTPException) as error:  # no connection, a timeout, a reply that breaks off
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        never_sent = isinstance(cause, ConnectionRefusedError | socket.gaierror)
        return Problem("passing", f"{type(cause).__name__}: {cause}", charged=(0, 0) if never_sent else None)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A redirect is an error: followed, it would carry the key to another host."""


_OPENER = urllib.request.build_opener(_NoRedirect)
_NEAR = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))  # no proxy reaches this machine's own
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def _refusal(error: urllib.error.HTTPError, sent: Mapping[str, Any]) -> Problem:
    try:
        said = error.read(_SAID_BYTES).decode("utf-8", "replace")
    except (OSError, HTTPException):
        said = ""  # the status is known; only its explanation broke off
    reason = f"{error.code} {error.reason}: {said}"
    charged = None if error.code in _PERHAPS_CHARGED else (0, 0)
    if error.code in _MENDABLE or "insufficient_quota" in said or _refuses_a_field(said, sent):
        return Problem("refused", reason, charged=charged)
    if error.code in _PASSING or error.code >= 500:
        return Problem("passing", reason, _seconds(error.headers.get("Retry-After")), charged)
    return Problem("request", reason, charged=charged)


def _refuses_a_field(said: str, sent: Mapping[str, Any]) -> bool:
    """Whether the server dislikes a field that every request has: {"error": {"param": "max_tokens"}}."""
    try:
        field = json.loads(said)["error"]["param"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return isinstance(field, str) and field.partition(".")[0] in set(sent) - {"messages"}


def _read_whole(body: bytes) -> Completion | Problem:
    try:
        data = json.loads(body)
        choice = data["choices"][0]
        return _completion(choice["message"]["content"], choice.get("finish_reason"), data.get("usage"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Problem("passing", f"unreadable reply: {_excerpt(body)}")


def _read_stream(reply: HTTPResponse) -> Completion | Problem:
    """Server-sent events: a chunk of JSON after each "data:", then [DONE]. One that breaks off is worth nothing."""
    pieces: list[str] = []
    finish, usage = None, None
    line = b""
    try:
        for line in _data_lines(reply):
            if line == b"[DONE]":
                return _completion("".join(pieces), finish, usage)
            chunk = json.loads(line)
            if chunk.get("error"):
                return Problem("passing", f"the stream says: {_excerpt(line)}")
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"][:1]:
                pieces.append(choice["delta"].get("content") or "")
                finish = choice.get("finish_reason") or finish
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Problem("passing", f"unreadable chunk: {_excerpt(line)}")
    if finish is None:
        return Problem("passing", f"the stream broke off after {sum(map(len, pieces))} characters")
    return _completion("".join(pieces), finish, usage)  # some servers end without [DONE]


def _data_lines(reply: HTTPResponse) -> Iterator[bytes]:
    left = _LARGEST_REPLY_BYTES
    while left > 0 and (line := reply.readline(left)):
        left -= len(line)
        if line.startswith(b"data:") and line.endswith(b"\n"):
            yield line[5:].strip()


def _completion(text: Any, finish: Any, usage: Any) -> Completion | Problem:
    counts = usage if isinstance(usage, dict) else {}
    prompt, completion = (_count(counts.get(f"{kind}_tokens")) for kind in ("prompt", "completion"))
    if not isinstance(text, str) or not text.strip():
        charged = None if prompt is None or completion is None else (prompt, completion)
        return Problem("passing", f"empty reply (finish_reason {finish})", charged=charged)
    return Completion(text, str(finish or "stop"), prompt, completion)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _seconds(header: str | None) -> float:
    """Retry-After as seconds; 0 for none and for a date."""
    return float(header) if header and re.fullmatch(r"\d{1,6}(\.\d{1,3})?", header.strip()) else 0.0


def _excerpt(body: bytes) -> str:
    """What `post` masks, and then cuts."""
    return body[:_SAID_BYTES].decode("utf-8", "replace")
