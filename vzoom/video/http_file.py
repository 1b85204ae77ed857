"""An http(s) URL as a file that can be read from any byte on, within a budget of time."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import socket
import ssl
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from .base import ReadBudget, VideoError, VideoReadError

_MAX_REDIRECTS = 5
_READ_ON_BYTES = 256 << 10  # a seek this far forward reads on: cheaper than another request


class HttpFile(io.RawIOBase):
    """Reads a URL with byte ranges. No read lasts longer than what `budget` has left.

    A server that knows no ranges gives a file that cannot seek: what its container allows to read from the front.

    Raises:
        VideoError: there is nothing at the URL.
        VideoReadError: the server is silent or fails; from `read` as well.
    """

    def __init__(self, url: str, budget: ReadBudget) -> None:
        super().__init__()
        self.name = urlsplit(url).path  # libav looks at how it ends
        self._url, self._budget = url, budget
        self._at = 0
        self._size: int | None = None
        self._response: http.client.HTTPResponse | None = None
        self._socket: socket.socket | None = None
        self._seekable = True
        self._request(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._seekable and self._size is not None

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size or 0}[whence]
        target = max(0, base + offset)
        ahead = target - self._at
        if self._response is not None and 0 <= ahead <= _READ_ON_BYTES:
            while ahead > 0 and (skipped := len(self.read(ahead))):
                ahead -= skipped
        else:
            self._drop()
            self._at = target
        return self._at

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes from here on; none at the end."""
        if self._size is not None and self._at >= self._size:
            return b""
        if self._response is None:
            self._request(self._at)
        assert self._response is not None
        assert self._socket is not None
        try:
            self._socket.settimeout(self._budget.seconds_left())
            data = self._response.read1(size)
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise self._failed(error) from error
        self._at += len(data)
        if not data and self._size is not None:
            self._drop()
            self._budget.check()
            raise VideoReadError(f"{self._url}: the server closed the connection at byte {self._at} of {self._size}")
        return data

    def interrupt(self) -> None:
        """Let a read that waits for the server, in another thread, end now."""
        waiting = self._socket
        if waiting is not None:
            with contextlib.suppress(OSError):  # it is closed already
                waiting.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._drop()
        super().close()

    def _drop(self) -> None:
        if self._response is not None:
            self._response.close()
        if self._socket is not None:
            self._socket.close()
        self._response = self._socket = None

    def _request(self, start: int) -> None:
        """Ask for the bytes from `start` on, following redirects."""
        url = self._url
        for _ in range(_MAX_REDIRECTS):
            try:
                response, self._socket = _get(urlsplit(url), start, self._budget.seconds_left())
            except (OSError, http.client.HTTPException) as error:
                raise self._failed(error) from error
            self._response = response
            moved = response.getheader("Location")
            if response.status in (301, 302, 303, 307, 308) and moved:
                self._drop()
                url = urljoin(url, moved)
                if urlsplit(url).scheme not in ("http", "https"):
                    raise VideoError(f"{self._url}: it leads to {url}, which is not http")
                continue
            self._began(response, start)
            return
        raise VideoError(f"{self._url}: more than {_MAX_REDIRECTS} redirects")

    def _began(self, response: http.client.HTTPResponse, start: int) -> None:
        length = response.getheader("Content-Length")
        if response.status == 206:
            total = (response.getheader("Content-Range") or "").rpartition("/")[2]
            self._size = int(total) if total.isdecimal() else None
        elif response.status == 200 and start == 0:
            self._size = int(length) if length is not None and length.isdecimal() else None
            self._seekable = False
        elif response.status == 416:  # the file ends before `start`
            self._drop()
            raise VideoReadError(f"{self._url}: the server has no byte {start}")
        else:
            self._drop()
            raise VideoError(
                f"{self._url}: not a video that can be opened (the server says {response.status} {response.reason})"
            )

    def _failed(self, error: Exception) -> VideoReadError:
        self._budget.check()  # if the time is over, that is the reason
        return VideoReadError(f"{self._url}: the server cannot be read ({error})")


def _get(url: SplitResult, start: int, timeout: float) -> tuple[http.client.HTTPResponse, socket.socket]:
    """The response to a request for the bytes from `start` on, and the socket that it comes through."""
    if not url.hostname:
        raise OSError(f"no host in {url.geturl()}")
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=timeout)
    headers = {"Range": f"bytes={start}-", "User-Agent": "vzoom", "Connection": "close"}
    if url.username is not None:
        user = f"{unquote(url.username)}:{unquote(url.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    try:
        connection.connect()
        channel = connection.sock
        connection.request("GET", (url.path or "/") + (f"?{url.query}" if url.query else ""), headers=headers)
        return connection.getresponse(), channel
    except (OSError, http.client.HTTPException):
        connection.close()
        raise
