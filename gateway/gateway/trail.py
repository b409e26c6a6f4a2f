"""What a request leaves behind on its way through the services: seconds, and spans where requests are traced."""

from collections.abc import Mapping
from typing import Literal, Protocol

from gateway.replicas import Failure

Outcome = Literal["ok", Failure, "broken_off", "given_up"]
"""What became of an attempt. Ok: an answer that says nothing against the replica; broken off: one that was not
finished; given up: the client has left, or its time was over."""


class AttemptSpan(Protocol):
    """One attempt at a replica, as a tracer has it."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What tells the service which span its own belong to."""

    def end(self, outcome: Outcome) -> None:
        """The attempt is over."""


class RequestSpan(Protocol):
    """One request, as a tracer has it."""

    def attempt(self, upstream: str, replica: int) -> AttemptSpan:
        """An attempt at that replica begins."""

    def end(self, status: int) -> None:
        """The request is over; `status` is what the client got, 499 if it left before."""


class Tracing(Protocol):
    """Where spans go."""

    def request(self, method: str, route: str, headers: Mapping[str, str], seconds_ago: float) -> RequestSpan:
        """The span of a request to `route` that began a while ago; part of its client's trace, if `headers` name it."""


class Trail:
    """One request's."""

    def __init__(self, span: RequestSpan | None = None) -> None:
        self.span = span
        self.upstream_seconds = 0.0
        """All its attempts together, each from its first byte out to its last byte in, and the wait for its turn."""
