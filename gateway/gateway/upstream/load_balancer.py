"""The replicas of one service, as its callers use them: each attempt of a request leases one."""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from types import TracebackType

from gateway.telemetry.metrics import ServiceMetrics
from gateway.telemetry.outcomes import AttemptOutcome, EjectionReason, Failure
from gateway.telemetry.trace import RequestTrace
from gateway.upstream.deadline import Deadline
from gateway.upstream.http_client import Origin
from gateway.upstream.outlier_ejection import EndpointSet, HealthCheckResult, Pick
from gateway.upstream.retry_policy import RetryBudget, RetryPolicy
from onecard import logs
from onecard.models.folders import is_stand_in
from onecard.models.identity import ModelIdentity
from onecard.models.served_models import ServedModels

log = logs.logger()


class ResponseTimeout:
    """Context manager that limits one wait for a replica.

    It ends early if the replica turns out to be frozen while others are not.

    Raises:
        TimeoutError: at the end of the block, if the time is over.
    """

    def __init__(self, waits: dict[asyncio.Timeout, float], seconds: float) -> None:
        """Prepare the wait.

        Args:
            waits: all waits for this replica and when they began, in seconds of `time.monotonic`; it is one of them
                while the block runs.
            seconds: its limit.
        """
        self._waits = waits
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._waits[self._timeout] = time.monotonic()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        del self._waits[self._timeout]
        await self._timeout.__aexit__(kind, error, tb)


class EndpointLease:
    """One replica for one attempt, from its first byte sent to its last byte received.

    An attempt that ends without any fault of the replica (the client has left, its time is over) reports nothing.
    """

    def __init__(self, balancer: "LoadBalancer", pick: Pick, trace: RequestTrace) -> None:
        """Start the attempt.

        Args:
            balancer: of the service.
            pick: which replica.
            trace: of the request.
        """
        self._balancer = balancer
        self._pick = pick
        self._open = True
        self._started_at = time.monotonic()
        self._has_responded = False
        self._outcome: AttemptOutcome | None = None
        self._trace = trace
        trace.attempts += 1
        self._span = trace.span.attempt(balancer.name, pick.endpoint) if trace.span else None
        self.headers: Mapping[str, str] = self._span.headers if self._span else {}
        """Trace headers for the service; empty without tracing."""
        self.endpoint = pick.endpoint
        """Number of the replica."""
        self.origin = balancer.origins[pick.endpoint]
        """Its address, for the connection only: it appears neither in logs nor in responses."""

    def timeout(self, seconds: float) -> ResponseTimeout:
        """Limit one wait for the replica.

        Args:
            seconds: the limit.

        Returns:
            A context manager that raises `TimeoutError`.
        """
        return ResponseTimeout(self._balancer.pending_timeouts[self.endpoint], seconds)

    def responded(self) -> None:
        """Record the head of a response that is no failure of the replica."""
        seconds = time.monotonic() - self._started_at
        self._has_responded = True
        self._balancer.metrics.head_seconds.observe(seconds)
        self._balancer.endpoints.responded(self._pick, seconds)
        self._balancer.log_ejection(self.endpoint)

    def completed(self) -> None:
        """Record the last byte of the response."""
        self._outcome = self._outcome or "ok"

    def failed(self, failure: Failure) -> None:
        """Record a failure of the replica, also in the middle of its response.

        Args:
            failure: what happened.
        """
        self._outcome = self._outcome or ("broken_off" if self._has_responded and failure != "silent" else failure)
        self._balancer.endpoints.failed(self._pick, failure)
        self._balancer.log_ejection(self.endpoint)

    def close(self) -> None:
        """End the attempt. Calling it again does nothing."""
        if self._open:
            self._open = False
            seconds, outcome = time.monotonic() - self._started_at, self._outcome or "given_up"
            self._trace.upstream_seconds += seconds
            self._balancer.metrics.attempt_ended(outcome, seconds)
            if self._span is not None:
                self._span.end(outcome)
            self._balancer.endpoints.release(self._pick)


class LoadBalancer:
    """The replicas of one service."""

    def __init__(self, name: str, addresses: Sequence[str], metrics: ServiceMetrics) -> None:
        """Start with all replicas in service.

        Args:
            name: of the service, for logs.
            addresses: a base URL for each replica.
            metrics: of the service.
        """
        self.name = name
        self.metrics = metrics
        self.origins = tuple(map(Origin.of, addresses))
        self.endpoints = EndpointSet(len(self.origins), time.monotonic)
        self.retry_budget = RetryBudget(time.monotonic, metrics.retry_decided)
        self.pending_timeouts: tuple[dict[asyncio.Timeout, float], ...] = tuple({} for _ in self.origins)
        """By replica, the waits for it and when they began, in seconds of `time.monotonic`."""
        self.suspects = tuple(asyncio.Event() for _ in self.origins)
        """By replica, set when connections to it fail, so that its readiness is checked at once."""
        self.models = ServedModels(len(self.origins))
        self._logged_reasons: list[EjectionReason | None] = [None for _ in self.origins]
        for number in range(len(self.origins)):
            metrics.show_endpoint(
                number,
                partial(self.endpoints.in_flight, number),
                partial(self._is_in_service, number),
                partial(self.serves_stand_in, number),
            )

    def lease(self, tried: Collection[int], trace: RequestTrace) -> EndpointLease | None:
        """Lease the best replica for an attempt.

        Args:
            tried: replicas that the request has been sent to.
            trace: of the request.

        Returns:
            The lease, which the caller closes; None if all replicas are ejected and none may be probed now.
        """
        pick = self.endpoints.pick(tried)
        if pick is None:
            self.metrics.none_free.inc()
            return None
        return EndpointLease(self, pick, trace)

    @property
    def model(self) -> ModelIdentity | None:
        """The model that is served now, or was last if no replica is in service; None if no response named one."""
        return self.models.model(self._is_in_service)

    def serves_stand_in(self, number: int) -> bool:
        """Whether a replica, by number, has named a stand-in as its model."""
        model = self.models.of(number)
        return model is not None and is_stand_in(model.model)

    def _is_in_service(self, number: int) -> bool:
        return self.endpoints.ejected_for(number) is None

    def retries(self, deadline: Deadline) -> RetryPolicy:
        """The retry policy for one request.

        Args:
            deadline: of the request.

        Returns:
            A policy that shares the service's retry budget.
        """
        return RetryPolicy(self.endpoints.has_alternative, self.retry_budget, deadline)

    def on_health_check(self, number: int, result: HealthCheckResult, began: float) -> None:
        """Record the outcome of a readiness check. If the replica is frozen, end the waits for it.

        Args:
            number: of the replica.
            result: the outcome.
            began: when the check began, in seconds of `time.monotonic`.
        """
        is_frozen = self.endpoints.on_health_check(number, result, began)
        self.log_ejection(number)
        if is_frozen:
            for timeout, started_at in self.pending_timeouts[number].items():
                # A stream that has sent something since the check began goes on.
                if started_at < began and not timeout.expired():
                    timeout.reschedule(asyncio.get_running_loop().time())

    def log_ejection(self, number: int) -> None:
        """Log once when a replica is ejected, returns, or is ejected for another reason.

        Args:
            number: of the replica.
        """
        reason = self.endpoints.ejected_for(number)
        if reason == self._logged_reasons[number]:
            return
        self._logged_reasons[number] = reason
        if reason is None:
            log.info("replica is back", upstream=self.name, replica=number)
            return
        self.metrics.ejected(reason)
        log.warning("replica is out", upstream=self.name, replica=number, reason=reason)
        if reason == "away":
            self.suspects[number].set()
