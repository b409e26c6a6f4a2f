"""HTTP/1.1 with the services: connect, send, head, chunks, cancel. Nothing else in the gateway knows its bytes.

The connections, their pool, names, TLS and the parser (llhttp) are aiohttp's. A relay needs no cookies, redirects,
compression or proxies, so that it goes past `ClientSession`, whose share of a request's cost is three times the rest;
what aiohttp lets through and a relay must not is refused here
([decision 19](../../docs/decisions/0019-the-relay-goes-past-aiohttps-session.md)).
"""

import asyncio
import math
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import ClientRequest, ClientTimeout, TCPConnector, ThreadedResolver
from aiohttp.abc import ResolveResult
from aiohttp.connector import Connection as Held
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.streams import StreamReader
from yarl import URL

from gateway.upstream.connection import CONNECTION_ERRORS, BadResponse, Connection, NoResponse

IDLE_SECONDS = 15.0
"""After so long without use a connection is not used again: sooner than the services end theirs (`onecard.web.server`),
since a request on one that is just being ended fails."""
DNS_TTL_SECONDS = 10
"""How long a host name is taken to lead to the same addresses."""
SLOW_DNS_SECONDS = 0.1
"""A look-up that takes longer goes on, while what was found before is used."""
_IDEMPOTENT = ("GET", "DELETE")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True)
class Origin:
    """Where a replica listens."""

    url: URL
    prefix: str = ""
    """What its paths begin with, without a slash at the end."""
    tls: ssl.SSLContext | None = None

    @classmethod
    def of(cls, address: str) -> "Origin":
        """That of a base URL which the settings have let through, `http` or `https`."""
        url = URL(address)
        tls = ssl.create_default_context() if url.scheme == "https" else None
        return cls(url.origin(), url.raw_path.rstrip("/"), tls)


def request_head(method: str, origin: Origin, path: str, headers: Mapping[str, str], body_bytes: int) -> bytes:
    """A request up to its body.

    Raises:
        ValueError: a line break or a null is in a header or in the path: it would begin something else.
    """
    lines = [
        f"{method} {origin.prefix}{path} HTTP/1.1",
        f"host: {origin.url.raw_authority}",
        "user-agent: onecard",
        "accept-encoding: identity",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    if body_bytes or method == "POST":
        lines.append(f"content-length: {body_bytes}")
    head = "\r\n".join(lines)
    if not head.count("\r") == head.count("\n") == len(lines) - 1 or "\0" in head:
        raise ValueError("a header or the path holds a line break or a NUL")
    return head.encode("latin-1") + b"\r\n\r\n"


class HttpResponse:
    """An answer whose head is here. Its body is read once, by one reader."""

    def __init__(self, message: RawResponseMessage, body: StreamReader, connection: "Connection", leave: Any) -> None:
        self.status = message.code
        self._version = message.version
        self._headers: dict[str, str] = {}
        for raw_name, raw_value in message.raw_headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            before = self._headers.get(name)
            self._headers[name] = value if before is None else f"{before}, {value}"
        self._body = body
        self._connection = connection
        self._release = leave

    @property
    def is_complete(self) -> bool:
        """All of it has come."""
        return self._body.is_eof() and self._body.exception() is None

    @property
    def is_exhausted(self) -> bool:
        """There is no more of it."""
        return self._body.at_eof() and self._body.exception() is None

    def validate(self, request_id: str | None) -> None:
        """Raise BadAnswer for what the parser takes, and nobody here has asked for."""
        told = self.header("x-request-id")
        if not 200 <= self.status < 600 or self._version[0] != 1:
            raise BadResponse("no answer of HTTP/1.1")
        if request_id is not None and told is not None and told != request_id:
            raise BadResponse("the answer to another request")
        if (self.header("content-encoding") or "identity").lower() != "identity":
            raise BadResponse("an encoding that nobody asked for")
        if (self.header("transfer-encoding") or "chunked").lower() != "chunked":
            raise BadResponse("a transfer encoding that nobody asked for")
        if any(not value.isprintable() and _CONTROL.search(value) for value in self._headers.values()):
            raise BadResponse("a control character in a header")

    def header(self, name: str) -> str | None:
        """The header of this name, which is given in lower case; one that came in several lines is one list."""
        return self._headers.get(name)

    async def chunk(self) -> bytes:
        """What has come since the last time, at least one byte; empty at the end.

        Raises:
            BadAnswer: it broke off.
        """
        try:
            return await self._body.readany()
        except (*CONNECTION_ERRORS, HttpProcessingError, BadResponse) as error:
            error.__traceback__ = None  # The body keeps it, and would be kept by the frames in it.
        if self._body._buffer:
            return self._body._read_nowait(-1)
        raise BadResponse("broke off")

    async def read(self, most_bytes: float = math.inf) -> bytes:
        """All that has not been read.

        Raises:
            BadAnswer: it broke off, or is longer than that.
        """
        body = bytearray()
        while part := await self.chunk():
            body += part
            if len(body) > most_bytes:
                raise BadResponse("too long")
        return bytes(body)

    def close(self) -> None:
        """Have no more of it. After a whole answer the connection serves again; otherwise it ends, which cancels what
        the service does."""
        if (leave := self._release) is not None:
            self._release = None
            leave(serves_again=self.is_complete and self._connection.is_idle)


class _Resolver(ThreadedResolver):
    """Looks names up; a name server that is slow or away is not waited for where something is known."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[tuple[str, int], list[ResolveResult]] = {}
        """Bounded: origins come from the settings."""
        self._lookups: dict[tuple[str, int], asyncio.Task[list[ResolveResult]]] = {}

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        """The addresses of a host.

        Raises:
            OSError: there is no such host, as far as anybody knows.
        """
        name, known = (host, port), self._known.get((host, port))
        looking = self._lookups.get(name)
        if looking is None or looking.done():
            looking = self._lookups[name] = asyncio.ensure_future(super().resolve(host, port, family))
            looking.add_done_callback(partial(self._on_found, name))
        await asyncio.wait([looking], timeout=SLOW_DNS_SECONDS if known else None)
        if known and (not looking.done() or looking.exception()):
            return known
        return looking.result()

    def _on_found(self, name: tuple[str, int], looking: "asyncio.Task[list[ResolveResult]]") -> None:
        if not looking.cancelled() and looking.exception() is None:
            self._known[name] = looking.result()


class HttpClient:
    """As many connections to each origin as there are requests at it at a time. Made in a running event loop."""

    def __init__(self, connect_seconds: float) -> None:
        """Wait for a connection for `connect_seconds` at most."""
        self._timeout = ClientTimeout(connect=connect_seconds)
        self._loop = asyncio.get_running_loop()
        self._connector = TCPConnector(
            limit=0, keepalive_timeout=IDLE_SECONDS, ttl_dns_cache=DNS_TTL_SECONDS, resolver=_Resolver()
        )
        self.open: set[Connection] = set()
        """All of them, in use and idle."""
        made: Any = partial(Connection, self._loop, self.open)
        self._connector._factory = made
        self._connection_keys: dict[Origin, ClientRequest] = {}
        """What aiohttp wants to know to connect to it."""

    async def request(
        self, method: str, origin: Origin, path: str, headers: Mapping[str, str], body: bytes
    ) -> HttpResponse:
        """The answer to a request, as far as its head. Close it. Who does not wait until then ends the connection.

        On a kept connection the service may end it at that very moment. What HTTP calls idempotent is then sent once
        more on a new one; whether anything else is, the caller decides.

        Raises:
            NoAnswer, BadAnswer: there is no connection or none in time, it ended, or what came is no answer, or not the
                one to this request.
            ValueError: the request is none.
        """
        head = request_head(method, origin, path, headers, len(body))
        while True:
            held = await self._connect(origin)
            connection = held.protocol
            assert isinstance(connection, Connection)  # noqa: S101 - the connector's factory makes no other
            if connection.request_count and connection.has_unread_input:
                held.close()
                continue
            try:
                answer = HttpResponse(
                    *await connection.request(head, body), connection, partial(_release, held, connection)
                )
                answer.validate(headers.get("x-request-id"))
            except BaseException as error:
                repeats = isinstance(error, NoResponse) and connection.request_count > 1 and not connection.has_received
                _release(held, connection, serves_again=False)
                if repeats and method in _IDEMPOTENT:
                    continue
                raise
            return answer

    async def aclose(self) -> None:
        """End all of them, at once."""
        for connection in tuple(self.open):
            connection.abort_now()
        await self._connector.close()

    async def _connect(self, origin: Origin) -> Held:
        where = self._connection_keys.get(origin)
        if where is None:
            where = ClientRequest("POST", origin.url, ssl=origin.tls or True, loop=self._loop)
            self._connection_keys[origin] = where
        try:
            return await self._connector.connect(where, [], self._timeout)
        except (*CONNECTION_ERRORS, TimeoutError, ValueError):
            pass
        raise NoResponse("no connection")


def _release(held: Held, connection: Connection, *, serves_again: bool) -> None:
    connection.mark_idle()
    if serves_again:
        held.release()
    else:
        connection.abort()  # At once: closing would wait until what is buffered has left.
        held.close()
