"""An HTTP/1.1 client for load generators: requests are prepared bytes, and responses are parsed in C.

It takes a fraction of a full client's CPU time, which leaves the cores to the servers under test.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools


@dataclass(frozen=True)
class HttpResponse:
    """A complete response."""

    status: int
    headers: Mapping[str, str]
    """Values by lower-case name."""
    body: bytes
    first_seconds: float
    """Time from sending the request to the first byte of the body."""
    seconds: float
    """Time from sending the request to the last byte."""


def request_bytes(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Render a `POST` request with a JSON body."""
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    lines += [f"content-length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def json_request(path: str, value: Any, headers: Mapping[str, str]) -> bytes:
    """Render a `POST` request with `value` as JSON."""
    return request_bytes(path, json.dumps(value, ensure_ascii=False).encode(), headers)


def get_request(path: str) -> bytes:
    """Render a `GET` request."""
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()


class HttpConnection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    def __init__(self) -> None:
        self.open = False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[HttpResponse] | None = None
        self._begin()

    def _begin(self) -> None:
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._first = 0.0

    def send(self, request: bytes) -> asyncio.Future[HttpResponse]:
        """Send a request. The future gets the response, or a `ConnectionError`."""
        self._answer = asyncio.get_running_loop().create_future()
        self._sent = time.perf_counter()
        if self._transport is None or not self.open:
            self._answer.set_exception(ConnectionError("closed"))
        else:
            self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        self._transport, self.open = transport, True

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self.open = False
        self._fail(exc or ConnectionError("closed before the end of the answer"))

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"no HTTP: {error}"))
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by httptools."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Called by httptools."""
        if not self._parts:
            self._first = time.perf_counter()
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Called by httptools."""
        status, ended = self._parser.get_status_code(), time.perf_counter()
        if not self._parser.should_keep_alive():
            self.open = False
            self.close()
        answer = HttpResponse(
            status, self._headers, b"".join(self._parts), (self._first or ended) - self._sent, ended - self._sent
        )
        self._begin()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


class HttpLoadClient:
    """Sends requests to one server, one at a time, and connects when needed. Use it in an `async with`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "127.0.0.1", parts.port or 80
        self._connection: HttpConnection | None = None

    async def send(self, request: bytes) -> HttpResponse:
        """Send a request.

        Args:
            request: the rendered request.

        Returns:
            The response.

        Raises:
            OSError: the server cannot be reached, or closed the connection too early.
            CancelledError: the caller was cancelled; the connection is closed.
        """
        if self._connection is None or not self._connection.open:
            loop = asyncio.get_running_loop()
            _, self._connection = await loop.create_connection(HttpConnection, *self._address)
        try:
            return await self._connection.send(request)
        except asyncio.CancelledError:
            self.close()  # Its response would be taken for that of the next request.
            raise

    async def __aenter__(self) -> "HttpLoadClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
