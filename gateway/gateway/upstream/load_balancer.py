"""The replicas of one service, as those who call it see them: each request leases one."""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from types import TracebackType

from gateway.telemetry.metrics import ServiceMetrics
from gateway.telemetry.outcomes import AttemptOutcome, EjectionReason, Failure
from gateway.telemetry.trace import RequestTrace
from gateway.upstream.deadline import Deadline
from gateway.upstream.endpoint_set import EndpointSet, HealthCheckResult, Pick
from gateway.upstream.http_client import Origin
from gateway.upstream.retry_policy import RetryBudget, RetryPolicy
from onecard import logs
from onecard.models.identity import ModelIdentity
from onecard.models.served_models import ServedModels

log = logs.logger()


class ResponseTimeout:
    """A time limit on one wait for a replica, which is over early when the replica turns out to be frozen and others
    are not.

    Raises:
        TimeoutError: at the end of the context, if the limit is over.
    """

    def __init__(self, waits: dict[asyncio.Timeout, float], seconds: float) -> None:
        """Wait with all those in `waits`."""
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
    """One replica for one attempt, from its first byte out to its last byte in. Closing it, once or more, ends it.

    An attempt that is given up for no fault of the replica (the client has left, its time is over) reports nothing.
    """

    def __init__(self, balancer: "LoadBalancer", pick: Pick, trace: RequestTrace) -> None:
        self._balancer = balancer
        self._pick = pick
        self._open = True
        self._started_at = time.monotonic()
        self._has_responded = False
        self._outcome: AttemptOutcome | None = None
        self._trace = trace
        self._span = trace.span.attempt(balancer.name, pick.endpoint) if trace.span else None
        self.headers: Mapping[str, str] = self._span.headers if self._span else {}
        """What the service is to be told of the trace."""
        self.endpoint = pick.endpoint
        """Its number."""
        self.origin = balancer.origins[pick.endpoint]
        """Where it is, to go no further than the connection: neither into a log nor into an answer."""

    def timeout(self, seconds: float) -> ResponseTimeout:
        """A time limit on one wait for the replica."""
        return ResponseTimeout(self._balancer.pending_timeouts[self.endpoint], seconds)

    def responded(self) -> None:
        """The first byte of an answer is here that says nothing against the replica."""
        seconds = time.monotonic() - self._started_at
        self._has_responded = True
        self._balancer.metrics.head_seconds.observe(seconds)
        self._balancer.endpoints.responded(self._pick, seconds)
        self._balancer.log_ejection(self.endpoint)

    def completed(self) -> None:
        """The last byte of an answer is here."""
        self._outcome = self._outcome or "ok"

    def failed(self, failure: Failure) -> None:
        """The replica failed. Also for one that breaks off when part of its answer is here."""
        self._outcome = self._outcome or ("broken_off" if self._has_responded and failure != "silent" else failure)
        self._balancer.endpoints.failed(self._pick, failure)
        self._balancer.log_ejection(self.endpoint)

    def close(self) -> None:
        """The attempt is over."""
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
        """Take the service's name, which is what the log calls it, and a base URL for each replica."""
        self.name = name
        self.metrics = metrics
        self.origins = tuple(map(Origin.of, addresses))
        self.endpoints = EndpointSet(len(self.origins), time.monotonic)
        self.retry_budget = RetryBudget(time.monotonic, metrics.retry_decided)
        self.pending_timeouts: tuple[dict[asyncio.Timeout, float], ...] = tuple({} for _ in self.origins)
        """Time limits of those who wait for something from a replica, by replica, and since when they wait."""
        self.suspects = tuple(asyncio.Event() for _ in self.origins)
        """Set when connections to a replica fail: a check then says at once whether it is there."""
        self.models = ServedModels(len(self.origins))
        self._logged_reasons: list[EjectionReason | None] = [None for _ in self.origins]
        for number in range(len(self.origins)):
            metrics.show_endpoint(
                number, partial(self.endpoints.in_flight, number), partial(self._is_in_service, number)
            )

    def lease(self, tried: Collection[int], trace: RequestTrace) -> EndpointLease | None:
        """A lease of the replica that is the best bet; None when the service is out and cannot be asked just now.

        Args:
            trace: of the request.
        """
        pick = self.endpoints.pick(tried)
        if pick is None:
            self.metrics.none_free.inc()
            return None
        return EndpointLease(self, pick, trace)

    @property
    def model(self) -> ModelIdentity | None:
        """The model that is served now; the last one that was, while the service is away; None if it does not tell."""
        return self.models.model(self._is_in_service)

    def _is_in_service(self, number: int) -> bool:
        return self.endpoints.ejected_for(number) is None

    def retries(self, deadline: Deadline) -> RetryPolicy:
        """The rules for one request's attempts."""
        return RetryPolicy(self.endpoints.has_alternative, self.retry_budget, deadline)

    def on_health_check(self, number: int, verdict: HealthCheckResult, began: float) -> None:
        """A readiness check that began at second `began` of the monotonic clock is over."""
        frozen = self.endpoints.on_health_check(number, verdict, began)
        self.log_ejection(number)
        if frozen:
            for limit, since in self.pending_timeouts[number].items():
                # A stream that has flowed while the check was waited for is not cut.
                if since < began and not limit.expired():
                    limit.reschedule(asyncio.get_running_loop().time())

    def log_ejection(self, number: int) -> None:
        """Say once when the replica leaves service, or comes back, or is out for another reason."""
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
