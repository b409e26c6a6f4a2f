"""What a request leaves behind on its way through the services: seconds, and spans where requests are traced."""

from collections.abc import Mapping
from typing import Protocol

from gateway.telemetry.outcomes import AttemptOutcome


class AttemptSpan(Protocol):
    """One attempt at a replica, as a tracer has it."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What tells the service which span its own belong to."""

    def end(self, outcome: AttemptOutcome) -> None:
        """The attempt is over."""


class RequestSpan(Protocol):
    """One request, as a tracer has it."""

    def attempt(self, upstream: str, replica: int) -> AttemptSpan:
        """An attempt at that replica begins."""

    def end(self, status: int) -> None:
        """The request is over; `status` is what the client got, 499 if it left before."""


class Tracer(Protocol):
    """Where spans go."""

    def request(
        self, name: str, method: str, route: str, headers: Mapping[str, str], seconds_ago: float
    ) -> RequestSpan:
        """The span of a request to `route` that began a while ago; part of its client's trace, if `headers` name it."""


class RequestTrace:
    """One request's."""

    def __init__(self, span: RequestSpan | None = None) -> None:
        self.span = span
        self.upstream_seconds = 0.0
        """All its attempts together, each from its first byte out to its last byte in, and the wait for its turn."""
