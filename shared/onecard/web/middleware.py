"""The outermost layer of every service, as plain ASGI: whatever comes in meets this first.

It gives a request its id, asks a guard who is calling, reads the body whole within its limits, answers whatever the app
raises in the one error shape, and writes the access line and the metrics. Being ASGI, it wraps FastAPI apps
and the stock vLLM server alike.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onecard import logs
from onecard.errors import BodyTooLarge, InternalError, SlowRequest, Unavailable, render
from onecard.metrics import METHODS, HttpMetrics
from onecard.settings import ServiceSettings
from onecard.web import query_params, request_parsing, server_timing
from onecard.web.auth import Guard, require_known_host
from onecard.web.disconnect import ClientDisconnected
from onecard.web.server_timing import Timing

_BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
_DISCARD_LIMIT_FACTOR = 8
"""A too large body is read and dropped up to this many times the limit, so that a client that is still
sending reads our 413 instead of a connection reset."""
CLIENT_CLOSED_REQUEST = 499
"""Status for the log and the metrics when the client left before its answer (nginx's convention)."""

log = logs.logger()


@dataclass
class RequestContext:
    """One request and its answer, as the edge sees them."""

    send: Send
    request_id: str
    method: str
    """`HEAD` is `GET` to the app, and its answer has no body."""
    timings: dict[str, Timing]
    """By name, for `server-timing`; routes add to it through `scope["state"]`."""
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    bytes_out: int = 0
    in_load_shedder: bool = False
    """It has not got past the gate."""

    @property
    def elapsed_ms(self) -> float:
        """Since the request's headers were read."""
        return (time.perf_counter() - self.started) * 1000

    async def send_message(self, message: Message) -> None:
        """Send one ASGI message on, with our headers on the first."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            timing = server_timing.serialize({**self.timings, "total": Timing(self.elapsed_ms)})
            ours = {b"x-request-id": self.request_id.encode(), b"server-timing": timing.encode()}
            kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in ours]
            message = {**message, "headers": [*kept, *ours.items()]}
        elif message["type"] == "http.response.body":
            if self.method == "HEAD":
                message = {**message, "body": b""}
            self.bytes_out += len(message.get("body", b""))
        await self.send(message)

    async def send_error(self, error: HTTPException, *, close: bool) -> None:
        """Answer with `error`, and end the connection if its body was not read to the end."""
        status, headers, body = render(error)
        if close:
            headers["connection"] = "close"
        headers["content-length"] = str(len(body))
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send_message({"type": "http.response.start", "status": status, "headers": raw})
        await self.send_message({"type": "http.response.body", "body": body})


@dataclass(frozen=True)
class LoadShedder:
    """A question asked before a request is even parsed: can it be served at all?"""

    paths: frozenset[str]
    """The routes that it guards."""
    check: Callable[[Scope, bytes], None]
    """Raises the error that a request with this body is refused with."""


class RequestMiddleware:
    """ASGI middleware. `json_bodies` makes it parse and check bodies (the gateway leaves that to the services), but for
    those of `raw_types`, which a route reads itself. `query_paths`: see `onecard.web.query_params`."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ServiceSettings,
        metrics: HttpMetrics | None,
        json_bodies: bool,
        guard: Guard,
        gate: LoadShedder | None = None,
        raw_types: frozenset[bytes] = frozenset(),
        query_paths: Collection[str] | None = None,
    ) -> None:
        self._app = app
        self._load_shedder = gate or LoadShedder(frozenset(), lambda scope, body: None)
        self._metrics = metrics
        self._json_bodies = json_bodies
        self._raw_types = raw_types
        self._query_paths = query_paths
        self._allowed_hosts = frozenset(settings.allowed_hosts)
        self._guard = guard
        self._max_body_bytes = int(settings.max_body_mb * 1_000_000)
        self._body_timeout_seconds = settings.body_timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] == "websocket":
            await _refuse_websocket(scope, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = request_parsing.clean_request_id(headers.get(b"x-request-id")) or uuid.uuid4().hex
        method = scope["method"] if scope["method"] in METHODS else "other"
        exchange = RequestContext(send, request_id, method, timings={})
        scope = self._with_request_state(scope, exchange)
        # A request's context ends with its task; that of a pipelined one begins as a copy of the last one's.
        structlog.contextvars.bind_contextvars(request_id=request_id)
        if self._metrics:
            self._metrics.in_flight.inc()
        try:
            await self._run(scope, headers, receive, exchange)
        finally:
            self._record(scope, exchange)
            structlog.contextvars.unbind_contextvars("caller")

    def _with_request_state(self, scope: Scope, exchange: RequestContext) -> Scope:
        """The scope with the request id in its headers, and in its state what routes read and write."""
        others = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
        state = {**scope.get("state", {}), "request_id": exchange.request_id, "timings": exchange.timings}
        method = "GET" if exchange.method == "HEAD" else scope["method"]
        headers = [*others, (b"x-request-id", exchange.request_id.encode())]
        return {**scope, "method": method, "headers": headers, "state": state}

    async def _run(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, exchange: RequestContext) -> None:
        body_read = scope["method"] not in _BODY_METHODS
        try:
            self._authenticate(scope)
            if body_read:
                scope["state"].update(body=b"", received=time.perf_counter())
            else:
                body = await self._read_body(headers, receive)
                body_read = True
                if scope["path"] in self._load_shedder.paths:
                    exchange.in_load_shedder = True
                    self._load_shedder.check(scope, body)
                    exchange.in_load_shedder = False
                content_type = headers.get(b"content-type")
                if self._json_bodies and body and request_parsing.media_type(content_type) not in self._raw_types:
                    request_parsing.require_json_type(content_type)
                    scope["state"]["json"] = request_parsing.parse_json(body)
                scope["state"].update(body=body, received=time.perf_counter())
                receive = _replay_body(body, receive)
            query_params.require_known_parameters(scope, self._query_paths)
            await self._app(scope, receive, exchange.send_message)
        except HTTPException as error:
            await exchange.send_error(error, close=not body_read)
        except ClientDisconnected:
            exchange.status = CLIENT_CLOSED_REQUEST
        except asyncio.CancelledError:
            # The server stops, and the time to finish what was accepted is over. Nobody else cancels a request.
            if exchange.status:
                raise
            await exchange.send_error(
                Unavailable("The service is stopping. Try again shortly.", retry_after=15), close=True
            )
        except Exception:
            log.exception("request failed")
            if exchange.status:
                raise  # Part of an answer is out; the server must break the connection to say that it is cut.
            await exchange.send_error(InternalError("The server failed on this request."), close=False)

    def _authenticate(self, scope: Scope) -> None:
        """Ask the guard who is calling, for the routes and for every log line of this request.

        Raises:
            MissingKey, InvalidKey: nobody who may.
            UnknownHost: everybody may, but another site's page must not.
        """
        if self._guard.open:
            require_known_host(scope, self._allowed_hosts)
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        caller = self._guard.check(scope["path"], given)
        if caller is not None:
            scope["state"]["caller"] = caller
            structlog.contextvars.bind_contextvars(caller=caller.name)

    async def _read_body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The whole body.

        Raises:
            BodyTooLarge, SlowRequest: over the limit in bytes or in seconds.
            ClientGone: the client disconnected.
        """
        try:
            async with asyncio.timeout(self._body_timeout_seconds):
                if int(headers.get(b"content-length", b"0")) > self._max_body_bytes * _DISCARD_LIMIT_FACTOR:
                    raise self._too_large()
                return await self._read_chunks(receive)
        except TimeoutError:
            raise SlowRequest(
                f"The body did not arrive within {self._body_timeout_seconds:g} s. Send it faster."
            ) from None

    async def _read_chunks(self, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= self._max_body_bytes:
                chunks.append(chunk)
            else:
                chunks.clear()
            more = message.get("more_body", False)
            if size > self._max_body_bytes and (not more or size > self._max_body_bytes * _DISCARD_LIMIT_FACTOR):
                raise self._too_large()
            if not more:
                return b"".join(chunks)

    def _too_large(self) -> BodyTooLarge:
        limit = self._max_body_bytes / 1_000_000
        return BodyTooLarge(f"The body is over {limit:g} MB. Send fewer or shorter inputs a request.")

    def _record(self, scope: Scope, exchange: RequestContext) -> None:
        gated = scope["path"] if scope["path"] in self._load_shedder.paths else None
        route = getattr(scope.get("route"), "path", None) or gated or "unmatched"
        status = exchange.status or CLIENT_CLOSED_REQUEST
        ms = exchange.elapsed_ms
        if self._metrics:
            self._metrics.in_flight.dec()
            self._metrics.record(route, exchange.method, status, ms / 1000)
        # Refusals at the gate come by the thousand; the metrics count them, and a line each would cost more than they.
        refused = exchange.in_load_shedder and status in (429, 503)
        quiet = refused or scope["state"].get("quiet") or route.startswith("/health") or route == "/metrics"
        level = log.debug if quiet else log.info
        sizes = {"ms": round(ms, 2), "bytes_out": exchange.bytes_out}
        level("request", route=route, method=exchange.method, status=status, **sizes)


async def _refuse_websocket(scope: Scope, send: Send) -> None:
    """No service has one, and no key has been looked at. Where the server can, in the one error shape."""
    status, headers, body = render(HTTPException(404))
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    if "websocket.http.response" in scope.get("extensions", {}):
        await send({"type": "websocket.http.response.start", "status": status, "headers": raw})
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        await send({"type": "websocket.close", "code": 1008})


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """A `receive` that hands out `body` once and then waits for the disconnect."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def request_state(scope: Scope) -> dict[str, Any]:
    """What the edge left for routes: `request_id`, `timings`, the `body` and when it was `received` (a second of
    `time.perf_counter`), `caller` if the guard names one, and `json` where it parses bodies. A route that sets `quiet`
    there has the access line of its request at the level debug.
    """
    state: dict[str, Any] = scope["state"]
    return state
