"""HTTP/1.1 with the services: connect, send, read, cancel. No other module knows the wire format.

Connections, their pool, DNS, TLS and the parser (llhttp) are aiohttp's. A relay needs no cookies, redirects,
compression or proxies, so it bypasses `ClientSession`, which would be three quarters of a request's cost. What aiohttp
accepts and a relay must not is refused here: see
[decision 19](../../docs/decisions/0019-the-relay-goes-past-aiohttps-session.md).
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
from aiohttp.connector import Connection as PooledConnection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.streams import StreamReader
from yarl import URL

from gateway.upstream.connection import CONNECTION_ERRORS, BadResponse, Connection, NoResponse

IDLE_SECONDS = 15.0
"""A connection that was idle for longer is not reused. Shorter than the services' own keep-alive
(`onecard.web.server`), because a request on a connection that is just being closed fails."""
DNS_TTL_SECONDS = 10
"""How long the addresses of a host name are used without a new look-up."""
SLOW_DNS_SECONDS = 0.1
"""A look-up that takes longer continues in the background; the addresses from before are used meanwhile."""
_IDEMPOTENT = ("GET", "DELETE")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True)
class Origin:
    """Where a replica listens."""

    url: URL
    prefix: str = ""
    """Path prefix, without a slash at the end."""
    tls: ssl.SSLContext | None = None
    """None for `http`."""

    @classmethod
    def of(cls, address: str) -> "Origin":
        """Parse a base URL.

        Args:
            address: `http` or `https` URL, checked by the settings.

        Returns:
            The origin, with its own TLS context for `https`.
        """
        url = URL(address)
        tls = ssl.create_default_context() if url.scheme == "https" else None
        return cls(url.origin(), url.raw_path.rstrip("/"), tls)


def request_head(method: str, origin: Origin, path: str, headers: Mapping[str, str], body_bytes: int) -> bytes:
    """Render a request's head.

    Args:
        method: HTTP method.
        origin: gives the host and the path prefix.
        path: percent-encoded path with query.
        headers: by lower-case name. `host`, `user-agent`, `accept-encoding` and `content-length` are added.
        body_bytes: length of the body.

    Returns:
        Request line and headers in Latin-1, with the empty line after them.

    Raises:
        ValueError: a header or the path holds a line break or a NUL, with which a second request could be smuggled in.
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
    """A response whose head has been read. Its body can be read once."""

    def __init__(self, message: RawResponseMessage, body: StreamReader, connection: "Connection", release: Any) -> None:
        """Take the head.

        Args:
            message: the head, as aiohttp parsed it.
            body: reader of the body.
            connection: that the response is received on.
            release: called once at the end, with the keyword `is_reusable`.
        """
        self.status = message.code
        self._version = message.version
        self._headers: dict[str, str] = {}
        for raw_name, raw_value in message.raw_headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            previous = self._headers.get(name)
            self._headers[name] = value if previous is None else f"{previous}, {value}"
        self._body = body
        self._connection = connection
        self._release = release

    @property
    def is_complete(self) -> bool:
        """Whether the whole body has been received."""
        return self._body.is_eof() and self._body.exception() is None

    @property
    def is_exhausted(self) -> bool:
        """Whether the whole body has been read."""
        return self._body.at_eof() and self._body.exception() is None

    def validate(self, request_id: str | None) -> None:
        """Check what the parser accepts and this client does not.

        Args:
            request_id: the `x-request-id` that was sent; None if none was.

        Raises:
            BadResponse: the status or the HTTP version is invalid, the response belongs to another request or has an
                encoding that was not requested, or a header holds a control character.
        """
        reported_id = self.header("x-request-id")
        if not 200 <= self.status < 600 or self._version[0] != 1:
            raise BadResponse("no answer of HTTP/1.1")
        if request_id is not None and reported_id is not None and reported_id != request_id:
            raise BadResponse("the answer to another request")
        if (self.header("content-encoding") or "identity").lower() != "identity":
            raise BadResponse("an encoding that nobody asked for")
        if (self.header("transfer-encoding") or "chunked").lower() != "chunked":
            raise BadResponse("a transfer encoding that nobody asked for")
        if any(not value.isprintable() and _CONTROL.search(value) for value in self._headers.values()):
            raise BadResponse("a control character in a header")

    def header(self, name: str) -> str | None:
        """Look up a header.

        Args:
            name: in lower case.

        Returns:
            Its value; those of several lines are joined by commas. None if it is missing.
        """
        return self._headers.get(name)

    async def chunk(self) -> bytes:
        """Read what has been received since the last call, or wait for more.

        Returns:
            At least one byte; empty at the end of the body.

        Raises:
            BadResponse: the body is incomplete.
        """
        try:
            return await self._body.readany()
        except (*CONNECTION_ERRORS, HttpProcessingError, BadResponse) as error:
            error.__traceback__ = None  # The reader keeps the error, whose frames would keep the reader: a cycle.
        if self._body._buffer:
            return self._body._read_nowait(-1)
        raise BadResponse("broke off")

    async def read(self, max_bytes: float = math.inf) -> bytes:
        """Read the rest of the body.

        Args:
            max_bytes: its limit.

        Returns:
            The bytes that `chunk` has not returned yet.

        Raises:
            BadResponse: the body is incomplete or exceeds the limit.
        """
        body = bytearray()
        while chunk := await self.chunk():
            body += chunk
            if len(body) > max_bytes:
                raise BadResponse("too long")
        return bytes(body)

    def close(self) -> None:
        """Release the connection. Calling it again does nothing.

        After a complete response the connection can be reused. Otherwise it is closed, which cancels the service's
        work.
        """
        if (release := self._release) is not None:
            self._release = None
            release(is_reusable=self.is_complete and self._connection.is_idle)


class _Resolver(ThreadedResolver):
    """DNS look-ups that keep using known addresses while the name server is slow or unreachable."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[tuple[str, int], list[ResolveResult]] = {}
        """Addresses by host and port. Bounded, because origins come from the settings."""
        self._lookups: dict[tuple[str, int], asyncio.Task[list[ResolveResult]]] = {}

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        """Look up a host. Concurrent look-ups of the same host and port share one.

        Args:
            host: its name.
            port: copied into the results.
            family: address family, as in the `socket` module.

        Returns:
            Its addresses: new ones, or the known ones if the look-up is slow or fails.

        Raises:
            OSError: the look-up failed and no addresses are known.
        """
        name, known = (host, port), self._known.get((host, port))
        lookup = self._lookups.get(name)
        if lookup is None or lookup.done():
            lookup = self._lookups[name] = asyncio.ensure_future(super().resolve(host, port, family))
            lookup.add_done_callback(partial(self._on_found, name))
        await asyncio.wait([lookup], timeout=SLOW_DNS_SECONDS if known else None)
        if known and (not lookup.done() or lookup.exception()):
            return known
        return lookup.result()

    def _on_found(self, name: tuple[str, int], lookup: "asyncio.Task[list[ResolveResult]]") -> None:
        if not lookup.cancelled() and lookup.exception() is None:
            self._known[name] = lookup.result()


class HttpClient:
    """A connection for each concurrent request, pooled by origin. Create it in a running event loop."""

    def __init__(self, connect_seconds: float) -> None:
        """Start without connections.

        Args:
            connect_seconds: longest wait for a connection.
        """
        self._timeout = ClientTimeout(connect=connect_seconds)
        self._loop = asyncio.get_running_loop()
        self._connector = TCPConnector(
            limit=0, keepalive_timeout=IDLE_SECONDS, ttl_dns_cache=DNS_TTL_SECONDS, resolver=_Resolver()
        )
        self.open: set[Connection] = set()
        """All connections, in use and idle."""
        factory: Any = partial(Connection, self._loop, self.open)
        self._connector._factory = factory
        self._connection_keys: dict[Origin, ClientRequest] = {}
        """What aiohttp's connector takes to identify an origin, built once."""

    async def request(
        self, method: str, origin: Origin, path: str, headers: Mapping[str, str], body: bytes
    ) -> HttpResponse:
        """Send a request and read the head of its response. Cancelling this closes the connection.

        A service may close a kept-alive connection just as the request is sent. A GET or DELETE is then sent once more
        on another connection. For any other method the caller decides.

        Args:
            method: HTTP method.
            origin: which replica.
            path: percent-encoded path with query.
            headers: by lower-case name.
            body: the whole body; empty if there is none.

        Returns:
            The response. The caller closes it.

        Raises:
            NoResponse: there was no connection in time, or it ended before the response began.
            BadResponse: what was received is not the HTTP response to this request.
            ValueError: a header or the path holds a line break or a NUL.
        """
        head = request_head(method, origin, path, headers, len(body))
        while True:
            pooled = await self._connect(origin)
            connection = pooled.protocol
            assert isinstance(connection, Connection)  # noqa: S101 - the connector's factory makes no other
            if connection.request_count and connection.has_unread_input:
                pooled.close()
                continue
            try:
                response = HttpResponse(
                    *await connection.request(head, body), connection, partial(_release, pooled, connection)
                )
                response.validate(headers.get("x-request-id"))
            except BaseException as error:
                repeat = isinstance(error, NoResponse) and connection.request_count > 1 and not connection.has_received
                _release(pooled, connection, is_reusable=False)
                if repeat and method in _IDEMPOTENT:
                    continue
                raise
            return response

    async def aclose(self) -> None:
        """Close all connections at once, those in use too."""
        for connection in tuple(self.open):
            connection.abort_now()
        await self._connector.close()

    async def _connect(self, origin: Origin) -> PooledConnection:
        connection_key = self._connection_keys.get(origin)
        if connection_key is None:
            connection_key = ClientRequest("POST", origin.url, ssl=origin.tls or True, loop=self._loop)
            self._connection_keys[origin] = connection_key
        try:
            return await self._connector.connect(connection_key, [], self._timeout)
        except (*CONNECTION_ERRORS, TimeoutError, ValueError):
            pass
        raise NoResponse("no connection")


def _release(pooled: PooledConnection, connection: Connection, *, is_reusable: bool) -> None:
    connection.mark_idle()
    if is_reusable:
        pooled.release()
    else:
        connection.abort()  # `close` would wait until the buffered data has been sent.
        pooled.close()
