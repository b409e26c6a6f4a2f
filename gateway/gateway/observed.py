"""One relayed request as the figures have it: from the end of its body to the last byte of its answer."""

import time
from types import TracebackType

from starlette.exceptions import HTTPException
from starlette.types import Message, Scope, Send

from gateway.meter import Meter
from gateway.metrics import RouteFigures, RouteMetrics
from gateway.trail import Tracing, Trail
from gateway.upstreams import Upstream
from onecard.web.middleware import CLIENT_CLOSED_REQUEST, request_state

_ELSEWHERE = ("hit", "coalesced")
"""What `x-cache` says of an answer that its request did not have computed."""


class Observer:
    """Begins to look at requests."""

    def __init__(self, routes: RouteMetrics, tracing: Tracing | None) -> None:
        self.routes = routes
        self._tracing = tracing

    def begin(self, scope: Scope, route: str, upstream: Upstream, send: Send) -> "Observed":
        """Look at one request to `upstream` on a route; use it as a context, and answer through its `send`.

        It leaves the request's `trail` and its answer's `meter` in the state that routes read.
        """
        state = request_state(scope)
        span = None
        if self._tracing is not None:
            headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
            span = self._tracing.request(scope["method"], route, headers, time.perf_counter() - state["received"])
        state["trail"] = trail = Trail(span)
        state["meter"] = meter = Meter(len(state["body"]), estimates=state.get("counts_tokens", False))
        return Observed(self.routes.of(route), upstream, trail, meter, send, state["received"])


class Observed:
    """Stands between a route and its client."""

    def __init__(
        self, figures: RouteFigures, upstream: Upstream, trail: Trail, meter: Meter, send: Send, received: float
    ) -> None:
        self._figures = figures
        self._upstream = upstream
        self._trail = trail
        self._meter = meter
        self._send = send
        self._received = received
        self._status = 0
        self._cache = ""
        self._begun = False
        self._whole = False

    async def send(self, message: Message) -> None:
        """The ASGI interface."""
        if message["type"] == "http.response.start":
            headers = dict(message.get("headers", ()))
            self._status = message["status"]
            self._cache = headers.get(b"x-cache", b"").decode("latin-1")
            self._meter.begins(self._status, headers.get(b"content-type", b""))
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            if body and not self._begun:
                self._begun = True
                self._figures.first_byte.observe(time.perf_counter() - self._received)
            self._meter.answered(body)
            self._whole = not message.get("more_body", False)
        await self._send(message)

    def __enter__(self) -> "Observed":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._whole:
            self._answered()
        if self._trail.span is not None:
            failed = error.status_code if isinstance(error, HTTPException) else CLIENT_CLOSED_REQUEST
            self._trail.span.end(self._status if self._whole else failed)

    def _answered(self) -> None:
        elsewhere = self._cache in _ELSEWHERE
        upstream_seconds = None if self._cache == "coalesced" else self._trail.upstream_seconds
        self._figures.answered(self._cache, time.perf_counter() - self._received, upstream_seconds)
        if not elsewhere and (usage := self._meter.usage()):
            self._upstream.pool.figures.tokens(usage.prompt, usage.completion)
