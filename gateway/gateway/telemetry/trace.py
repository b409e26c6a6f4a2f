"""The trace of a request: the time spent at services, and spans if tracing is on."""

from collections.abc import Mapping
from typing import Protocol

from gateway.telemetry.outcomes import AttemptOutcome


class AttemptSpan(Protocol):
    """Span of one attempt at a replica."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that link the service's spans to this one."""

    def end(self, outcome: AttemptOutcome) -> None:
        """End the span.

        Args:
            outcome: of the attempt.
        """


class RequestSpan(Protocol):
    """Span of one request."""

    def attempt(self, upstream: str, replica: int) -> AttemptSpan:
        """Start the span of an attempt.

        Args:
            upstream: name of the service.
            replica: its number.

        Returns:
            The span.
        """

    def end(self, status: int) -> None:
        """End the span.

        Args:
            status: of the response; 499 if the client left before.
        """


class Tracer(Protocol):
    """Where spans are sent."""

    def request(
        self, name: str, method: str, route: str, headers: Mapping[str, str], seconds_ago: float
    ) -> RequestSpan:
        """Start the span of a request, in its client's trace if the headers name one.

        Args:
            name: of the span.
            method: HTTP method.
            route: path of the route.
            headers: of the request, by lower-case name.
            seconds_ago: how long ago it began.

        Returns:
            The span.
        """


class RequestTrace:
    """The trace of one request."""

    def __init__(self, span: RequestSpan | None = None) -> None:
        """Start with no time and no attempt.

        Args:
            span: None without tracing.
        """
        self.span = span
        self.upstream_seconds = 0.0
        """Sum over its attempts, each from its first byte sent to its last byte received, and the wait in the queue."""
        self.attempts = 0
        """Times that it was given to a replica."""
        self.computation: SharedComputation | None = None
        """What it may wait for together with others."""

    @property
    def is_worked_on(self) -> bool:
        """Whether a service has had the request, or the one whose computation it waits for."""
        trace = self.computation.trace if self.computation else None
        return self.attempts > 0 or (trace is not None and trace.attempts > 0)


class SharedComputation:
    """A computation that several requests wait for."""

    def __init__(self) -> None:
        """Start without a request."""
        self.trace: RequestTrace | None = None
        """Of the request for which it is sent: another one if that of the first was refused."""
