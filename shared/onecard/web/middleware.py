"""The outermost middleware of every service, in plain ASGI.

It assigns the request id, authenticates the caller, reads the whole body within its limits, turns exceptions into
OpenAI's error format, and writes the access log and the metrics. Being plain ASGI, it wraps FastAPI apps and the stock
vLLM server alike.
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
from onecard.client_traffic import is_client_request
from onecard.errors import BodyTooLarge, InternalError, SlowRequest, Unavailable, render
from onecard.metrics import METHODS, HttpMetrics
from onecard.settings import ServiceSettings
from onecard.web import query_params, request_parsing, server_timing
from onecard.web.auth import UNAUTHENTICATED_PATHS, Guard, require_known_host
from onecard.web.disconnect import ClientDisconnected
from onecard.web.server_timing import Timing

_BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
_DISCARD_LIMIT_FACTOR = 8
"""A too large body is read and discarded up to this many times the limit, so that a client that is still sending reads
our 413 instead of a connection reset."""
CLIENT_CLOSED_REQUEST = 499
"""Status in logs and metrics for a client that left before its response (nginx's convention)."""

log = logs.logger()


@dataclass
class RequestContext:
    """One request and its response, as the middleware sees them."""

    send: Send
    request_id: str
    method: str
    """`HEAD` is passed to the app as `GET`, and the response's body is dropped."""
    timings: dict[str, Timing]
    """By name, for `server-timing`; routes add to it through `scope["state"]`."""
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    bytes_out: int = 0
    complete: bool = False
    """Whether the response has been sent to its end."""
    in_load_shedder: bool = False
    """Whether the load shedder has not let it pass yet."""
    is_traffic: bool = False
    """Whether it is a client's, and counted as running."""

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the request's headers were read."""
        return (time.perf_counter() - self.started) * 1000

    async def send_message(self, message: Message) -> None:
        """Send an ASGI message, with our headers on the first one.

        Args:
            message: from the app.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
            timing = server_timing.serialize({**self.timings, "total": Timing(self.elapsed_ms)})
            ours = {b"x-request-id": self.request_id.encode(), b"server-timing": timing.encode()}
            others = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in ours]
            message = {**message, "headers": [*others, *ours.items()]}
        elif message["type"] == "http.response.body":
            if self.method == "HEAD":
                message = {**message, "body": b""}
            self.bytes_out += len(message.get("body", b""))
        await self.send(message)
        self.complete = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def send_error(self, error: HTTPException, *, close: bool) -> None:
        """Send an error response.

        Args:
            error: to send.
            close: whether to close the connection, because the request's body was not read to its end.
        """
        status, headers, body = render(error)
        if close:
            headers["connection"] = "close"
        headers["content-length"] = str(len(body))
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send_message({"type": "http.response.start", "status": status, "headers": raw})
        await self.send_message({"type": "http.response.body", "body": body})


@dataclass(frozen=True)
class LoadShedder:
    """Refuses requests before they are parsed if they could not be served anyway."""

    paths: frozenset[str]
    """The routes that it protects."""
    check: Callable[[Scope, bytes], None]
    """Gets scope and body; raises the error to refuse the request with."""


class RequestMiddleware:
    """The ASGI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ServiceSettings,
        metrics: HttpMetrics | None,
        json_bodies: bool,
        guard: Guard,
        load_shedder: LoadShedder | None = None,
        raw_types: frozenset[bytes] = frozenset(),
        query_paths: Collection[str] | None = None,
    ) -> None:
        """Wrap an app.

        Args:
            app: the ASGI app.
            settings: limits and allowed hosts.
            metrics: None for an app that has its own.
            json_bodies: whether to parse and check bodies; the gateway leaves that to the services.
            guard: authenticates callers.
            load_shedder: None refuses nothing.
            raw_types: content types of bodies that a route parses itself.
            query_paths: routes whose query parameters are checked; None for all. See `onecard.web.query_params`.
        """
        self._app = app
        self._load_shedder = load_shedder or LoadShedder(frozenset(), lambda scope, body: None)
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
        context = RequestContext(send, request_id, method, timings={})
        scope = self._with_request_state(scope, context)
        # A pipelined request's task starts with a copy of the previous request's context.
        structlog.contextvars.bind_contextvars(request_id=request_id)
        if self._metrics:
            self._metrics.in_flight.inc()
        try:
            await self._run(scope, headers, receive, context)
        finally:
            self._record(scope, context)
            structlog.contextvars.unbind_contextvars("caller")

    def _with_request_state(self, scope: Scope, context: RequestContext) -> Scope:
        """The scope with the request id in its headers, and with the state that routes read and write."""
        other_headers = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
        state = {**scope.get("state", {}), "request_id": context.request_id, "timings": context.timings}
        method = "GET" if context.method == "HEAD" else scope["method"]
        headers = [*other_headers, (b"x-request-id", context.request_id.encode())]
        return {**scope, "method": method, "headers": headers, "state": state}

    async def _run(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, context: RequestContext) -> None:
        body_read = scope["method"] not in _BODY_METHODS
        try:
            self._authenticate(scope)
            self._begin_traffic(scope, headers, context)
            if body_read:
                scope["state"].update(body=b"", received=time.perf_counter())
            else:
                body = await self._read_body(headers, receive)
                body_read = True
                if scope["path"] in self._load_shedder.paths:
                    context.in_load_shedder = True
                    self._load_shedder.check(scope, body)
                    context.in_load_shedder = False
                content_type = headers.get(b"content-type")
                if self._json_bodies and body and request_parsing.media_type(content_type) not in self._raw_types:
                    request_parsing.require_json_type(content_type)
                    scope["state"]["json"] = request_parsing.parse_json(body)
                scope["state"].update(body=body, received=time.perf_counter())
                receive = _replay_body(body, receive)
            query_params.require_known_parameters(scope, self._query_paths)
            await self._app(scope, receive, context.send_message)
        except HTTPException as error:
            await context.send_error(error, close=not body_read)
        except ClientDisconnected:
            context.status = CLIENT_CLOSED_REQUEST
        except asyncio.CancelledError:
            # Only a stopping server cancels requests, after its time to drain them.
            if context.status:
                raise
            await context.send_error(
                Unavailable("The service is stopping. Try again shortly.", retry_after=15), close=True
            )
        except Exception:
            log.exception("request failed")
            if context.status:
                # Part of the response is sent; the server must break the connection to show that it is incomplete.
                raise
            await context.send_error(InternalError("The server failed on this request."), close=False)

    def _authenticate(self, scope: Scope) -> None:
        """Authenticate the caller, for the routes and for the log lines of this request.

        Raises:
            MissingKey: the request has no key.
            InvalidKey: its key is unknown or malformed.
            UnknownHost: no key is required, and the host name is not allowed.
            HTTPException: it has a body for a path that needs no key; strangers' bodies are not read.
        """
        if scope["path"] in UNAUTHENTICATED_PATHS and scope["method"] in _BODY_METHODS:
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        if self._guard.open:
            require_known_host(scope, self._allowed_hosts)
        authorization = [value for name, value in scope["headers"] if name == b"authorization"]
        caller = self._guard.check(scope["path"], authorization)
        if caller is not None:
            scope["state"]["caller"] = caller
            structlog.contextvars.bind_contextvars(caller=caller.name)

    def _begin_traffic(self, scope: Scope, headers: dict[bytes, bytes], context: RequestContext) -> None:
        if self._metrics and is_client_request(scope["path"], headers):
            context.is_traffic = True
            self._metrics.clients.running.inc()

    async def _read_body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Read the whole body.

        Returns:
            The body.

        Raises:
            BodyTooLarge: it is over the limit.
            SlowRequest: it did not arrive in time.
            ClientDisconnected: the client disconnected.
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

    def _record(self, scope: Scope, context: RequestContext) -> None:
        protected_path = scope["path"] if scope["path"] in self._load_shedder.paths else None
        route = getattr(scope.get("route"), "path", None) or protected_path or "unmatched"
        status = context.status or CLIENT_CLOSED_REQUEST
        ms = context.elapsed_ms
        if self._metrics:
            self._metrics.in_flight.dec()
            self._metrics.record(route, context.method, status, ms / 1000)
            if context.is_traffic:
                self._metrics.clients.running.dec()
                self._metrics.clients.record(status, complete=context.complete)
        # The load shedder may refuse thousands; metrics count them, and a log line each would cost more than the
        # refusal.
        is_shed = context.in_load_shedder and status in (429, 503)
        quiet = is_shed or scope["state"].get("quiet") or route.startswith("/health") or route == "/metrics"
        level = log.debug if quiet else log.info
        sizes = {"ms": round(ms, 2), "bytes_out": context.bytes_out}
        level("request", route=route, method=context.method, status=status, **sizes)


async def _refuse_websocket(scope: Scope, send: Send) -> None:
    """Refuse a WebSocket: no service has any. In OpenAI's error format, if the server supports it."""
    status, headers, body = render(HTTPException(404))
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    if "websocket.http.response" in scope.get("extensions", {}):
        await send({"type": "websocket.http.response.start", "status": status, "headers": raw})
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        await send({"type": "websocket.close", "code": 1008})


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns `body` once and then waits for the disconnect."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def request_state(scope: Scope) -> dict[str, Any]:
    """What the middleware leaves for routes in `scope["state"]`.

    Args:
        scope: of the request.

    Returns:
        `request_id`, `timings`, `body` and when it was `received` (in seconds of `time.perf_counter`), `caller` if the
        guard names one, and `json` if bodies are parsed. A route may set `quiet` to log its access line at level debug.
    """
    state: dict[str, Any] = scope["state"]
    return state
