"""Metrics and trace of a relayed request, from the end of its body to the last byte of its response."""

import asyncio
import time
from types import TracebackType

from starlette.types import Scope

from gateway.telemetry.metrics import RouteMetrics, ServiceMetrics
from gateway.telemetry.response_tap import ResponseTap
from gateway.telemetry.token_usage import TokenUsageCounter
from gateway.telemetry.trace import RequestTrace, Tracer
from onecard.web.disconnect import ClientDisconnected
from onecard.web.middleware import CLIENT_CLOSED_REQUEST, request_state

_ELSEWHERE = ("hit", "coalesced")
"""Values of `x-cache` for responses that were not computed for this request."""


class RequestInstrumentation:
    """Context manager around one relayed request."""

    def __init__(
        self,
        scope: Scope,
        tap: ResponseTap,
        routes: RouteMetrics,
        service: ServiceMetrics,
        tracer: Tracer | None,
        span_name: str,
    ) -> None:
        """Put the request's trace into the request state, and let the tap count its tokens.

        Args:
            scope: of the request.
            tap: on its response.
            routes: metrics of all routes.
            service: metrics of its service.
            tracer: None without tracing.
            span_name: name of its span.
        """
        state = request_state(scope)
        self._received: float = state["received"]
        self._route: str = scope["route"].path
        self._tap = tap
        self._routes = routes
        self._service = service
        span = None
        if tracer is not None:
            headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
            span = tracer.request(
                span_name, scope["method"], self._route, headers, time.perf_counter() - self._received
            )
        self._trace = state["trace"] = RequestTrace(span)
        tap.token_usage = self._usage = TokenUsageCounter(len(state["body"]), estimates=tap.estimates_tokens)

    def __enter__(self) -> None:
        """Do nothing: the work before the request is done by `__init__`."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        tap = self._tap
        if tap.first_byte_at is not None or tap.is_complete:
            self._record()
        if self._trace.span is not None:
            self._trace.span.end(tap.status if tap.is_complete else _status_of(error))

    def _record(self) -> None:
        tap, metrics = self._tap, self._routes.of(self._route)
        if tap.first_byte_at is not None:
            metrics.first_byte.observe(tap.first_byte_at - self._received)
        if not tap.is_complete:
            return
        upstream_seconds = None if tap.x_cache == "coalesced" else self._trace.upstream_seconds
        metrics.responded(tap.x_cache, time.perf_counter() - self._received, upstream_seconds)
        if tap.x_cache not in _ELSEWHERE and (usage := self._usage.usage()):
            self._service.count_tokens(usage.prompt, usage.completion)


def _status_of(error: BaseException | None) -> int:
    """The status that a request without a complete response ends with: what its client gets, or would get."""
    if error is None or isinstance(error, ClientDisconnected):
        return CLIENT_CLOSED_REQUEST
    if isinstance(error, asyncio.CancelledError):
        return 503  # The gateway is stopping.
    status: int = getattr(error, "status_code", 500)
    return status
