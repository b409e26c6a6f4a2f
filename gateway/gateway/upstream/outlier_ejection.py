"""Which replica of a service gets the next request. Pure: the clock is a parameter, and events are method calls.

A replica is in service, or ejected for one of three reasons:

- `errors`: it can be reached, but fails. After a pause one request is sent to it as a probe, and its success ends the
  ejection.
- `away`: connections to it fail. A readiness check that passes ends the ejection.
- `unready`: its readiness checks fail. A check that passes ends the ejection.

All replicas of a service may be ejected. They still get requests then: what is known of them is some moments old, and a
gateway that refused everything would turn a short failure into a long one. A replica that is away or unready gets one
request at a time: if it is frozen, one client waits in vain and the others get their error at once.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

from gateway.telemetry.outcomes import EjectionReason, Failure

HealthCheckResult = Literal["ready", "not ready", "silent"]
"""Outcome of a readiness check. Not ready: its response says so, or the connection was refused; silent: no response
in time."""

EJECT_AFTER_FAILURES = 3
"""A replica is ejected after this many failures within `FAILURE_WINDOW_SECONDS`, without a success between them."""
FAILURE_WINDOW_SECONDS = 10.0
FIRST_EJECTION_SECONDS = 1.0
MAX_EJECTION_SECONDS = 30.0
"""The pause before a probe starts at the first of these, and doubles with each failed probe up to the second."""
DEPRIORITIZED_SECONDS = 1.0
"""A replica that has refused a request is the last choice for this long. It is not ejected: a full queue is no
failure, and ejecting full replicas would take capacity away when it is short."""
EJECT_AFTER_SILENT_CHECKS = 2
EJECT_LAST_AFTER_SILENT_CHECKS = 5
"""A replica is ejected after this many silent checks in a row; the last one in service after more, since a machine
that is merely overloaded falls silent too."""
SLOW_RATIO = 3.0
SLOW_DIFFERENCE_SECONDS = 0.05
"""A replica is slow if its latency exceeds the fastest one's by both this ratio and this difference."""
MAX_SLOW_WEIGHT = 10.0
"""Each request at a slow replica counts as many times as it is slower, up to this. The requests in flight alone say
nothing when requests come one at a time. The limit is there because latency also depends on the requests."""
LATENCY_TTL_SECONDS = 5.0
"""An older measurement is ignored, so that a slow replica gets requests again."""
_SMOOTHING = 0.2
"""Weight of the newest measurement in the moving average."""


@dataclass(frozen=True)
class Pick:
    """One request at one replica."""

    endpoint: int
    """Number of the replica."""
    serial: int
    """Picks are numbered in their order."""


@dataclass(frozen=True)
class _Ejection:
    reason: EjectionReason
    serial: int
    """Picks with a higher serial were made during the ejection: their outcome says how the replica is now."""
    duration_seconds: float = FIRST_EJECTION_SECONDS
    probe_at: float = math.inf


@dataclass
class _Endpoint:
    in_flight: int = 0
    last_pick: int = 0
    """Serial of its latest pick."""
    ejection: _Ejection | None = None
    probe: Pick | None = None
    failed_at: list[float] = field(default_factory=list)
    responded_at: float = -math.inf
    refused_at: float = -math.inf
    returned_at: float = -math.inf
    """When a readiness check last ended an ejection."""
    silent_checks: int = 0
    latency_seconds: float = 0.0
    """Moving average of the time to the head of a response."""

    @property
    def is_reachable(self) -> bool:
        return self.ejection is None or self.ejection.reason == "errors"


class EndpointSet:
    """The replicas of one service, numbered from 0. They start in service."""

    def __init__(self, count: int, clock: Callable[[], float]) -> None:
        """Start with all replicas in service.

        Args:
            count: number of replicas.
            clock: monotonic seconds.
        """
        self._endpoints = [_Endpoint() for _ in range(count)]
        self._clock = clock
        self._serial = 0

    def in_flight(self, number: int) -> int:
        """Requests at a replica now.

        Args:
            number: of the replica.

        Returns:
            Their number.
        """
        return self._endpoints[number].in_flight

    def ejected_for(self, number: int) -> EjectionReason | None:
        """Why a replica is ejected.

        Args:
            number: of the replica.

        Returns:
            The reason; None while it is in service.
        """
        ejection = self._endpoints[number].ejection
        return ejection.reason if ejection else None

    def has_alternative(self, tried: Collection[int]) -> bool:
        """Whether another replica is in service that has not just refused a request.

        Args:
            tried: replicas that the request has been sent to.

        Returns:
            True if there is one outside `tried`.
        """
        refused = self._clock() - DEPRIORITIZED_SECONDS
        others = (one for number, one in enumerate(self._endpoints) if number not in tried)
        return any(one.ejection is None and one.refused_at <= refused for one in others)

    def pick(self, exclude: Collection[int] = ()) -> Pick | None:
        """Choose the best replica for a request, and count the request there.

        Args:
            exclude: replicas that the request has been sent to. They are chosen only if there is nothing better.

        Returns:
            The pick, for which `release` has to be called once; None if all replicas are away or unready and each has a
            request already.
        """
        ranks = ((self._rank(number, exclude), number) for number in range(len(self._endpoints)))
        rank, number = min(ranks)
        if rank[0] == math.inf:
            return None
        endpoint = self._endpoints[number]
        self._serial += 1
        picked = Pick(number, self._serial)
        endpoint.last_pick = self._serial
        endpoint.in_flight += 1
        if endpoint.ejection is not None and endpoint.probe is None:
            endpoint.probe = picked
        return picked

    def _rank(self, number: int, exclude: Collection[int]) -> tuple[float, bool, float, int]:
        """Sort key of a replica; the lowest is the best.

        The order is: in service; has just refused a request; ejected for errors; away or unready. Then the least busy
        one, then the least recently used. A probe that is due comes first, but not with a request that has failed
        already.

        Returns:
            Tier, whether it has been tried, its load, and the serial of its latest pick.
        """
        endpoint = self._endpoints[number]
        now = self._clock()
        if endpoint.ejection is None:
            tier = 1.0 if now < endpoint.refused_at + DEPRIORITIZED_SECONDS else 0.0
        elif endpoint.ejection.reason == "errors":
            if endpoint.probe is None and now >= endpoint.ejection.probe_at and not exclude:
                return 0.0, False, 0.0, endpoint.last_pick
            tier = 2.0
        else:
            tier = 3.0 if endpoint.probe is None else math.inf
        return tier, number in exclude, (endpoint.in_flight + 1) * self._weight(endpoint), endpoint.last_pick

    def _weight(self, endpoint: _Endpoint) -> float:
        if len(self._endpoints) == 1:
            return 1.0
        oldest = self._clock() - LATENCY_TTL_SECONDS
        fastest = min(
            (one.latency_seconds for one in self._endpoints if one.ejection is None and one.responded_at > oldest),
            default=0,
        )
        slow = endpoint.responded_at > oldest and endpoint.latency_seconds > fastest + SLOW_DIFFERENCE_SECONDS
        if not slow or endpoint.latency_seconds < SLOW_RATIO * fastest:
            return 1.0
        return min(endpoint.latency_seconds / fastest, MAX_SLOW_WEIGHT) if fastest else MAX_SLOW_WEIGHT

    def release(self, picked: Pick) -> None:
        """Record that a request is over. Call it once for each pick, whatever its outcome.

        Args:
            picked: of the request.
        """
        endpoint = self._endpoints[picked.endpoint]
        endpoint.in_flight -= 1
        self._end_probe(endpoint, picked)

    def responded(self, picked: Pick, seconds: float) -> None:
        """Record the head of a response that is no failure of the replica. A 4xx for the request's own fault counts.

        Args:
            picked: of the request.
            seconds: time to the head.
        """
        endpoint = self._endpoints[picked.endpoint]
        self._end_probe(endpoint, picked)
        now = self._clock()
        oldest = now - endpoint.responded_at < LATENCY_TTL_SECONDS
        endpoint.latency_seconds += (seconds - endpoint.latency_seconds) * (_SMOOTHING if oldest else 1.0)
        endpoint.responded_at = now
        endpoint.failed_at.clear()
        endpoint.silent_checks = 0
        if endpoint.ejection is not None and picked.serial > endpoint.ejection.serial:
            endpoint.ejection = None

    def failed(self, picked: Pick, failure: Failure) -> None:
        """Record a failure of the replica, and eject it if it has too many.

        Args:
            picked: of the request.
            failure: what happened.
        """
        endpoint = self._endpoints[picked.endpoint]
        self._end_probe(endpoint, picked)
        now = self._clock()
        refused = failure in ("refused", "full")
        if refused:
            endpoint.refused_at = now
        if endpoint.ejection is not None:
            if picked.serial > endpoint.ejection.serial and endpoint.ejection.reason == "errors":
                pause = endpoint.ejection.duration_seconds * (1 if refused else 2)
                self._eject(endpoint, "errors", min(pause, MAX_EJECTION_SECONDS))
            return
        if refused:
            return
        endpoint.failed_at = [at for at in endpoint.failed_at if at > now - FAILURE_WINDOW_SECONDS] + [now]
        if len(endpoint.failed_at) < EJECT_AFTER_FAILURES:
            return
        # It fails again soon after a check has passed: then only a request can show whether it works.
        checks_mislead = now < endpoint.returned_at + FAILURE_WINDOW_SECONDS
        reason: EjectionReason = "away" if failure == "away" and not checks_mislead else "errors"
        # The last one that can be reached stays in service: some responses are better than none.
        if reason == "away" or not self._is_last(endpoint):
            self._eject(endpoint, reason)

    def on_health_check(self, number: int, result: HealthCheckResult, began: float) -> bool:
        """Record the outcome of a readiness check.

        Args:
            number: of the replica.
            result: its outcome.
            began: when it began, in seconds of the clock.

        Returns:
            Whether the replica has just been found frozen while others work: requests that wait for it are better sent
            to them.
        """
        endpoint = self._endpoints[number]
        if result == "ready":
            endpoint.silent_checks = 0
            if not endpoint.is_reachable:
                endpoint.ejection = None
                endpoint.failed_at.clear()
                endpoint.returned_at = self._clock()
        elif result == "not ready":
            self._eject_unready(endpoint)
        elif endpoint.responded_at < began:
            endpoint.silent_checks += 1
            last = self._is_last(endpoint)
            if endpoint.silent_checks >= (EJECT_LAST_AFTER_SILENT_CHECKS if last else EJECT_AFTER_SILENT_CHECKS):
                self._eject_unready(endpoint)
                return not last
        return False

    def _is_last(self, endpoint: _Endpoint) -> bool:
        """Whether no other replica is in service."""
        return not any(one.ejection is None for one in self._endpoints if one is not endpoint)

    def _eject_unready(self, endpoint: _Endpoint) -> None:
        if endpoint.ejection is None or endpoint.ejection.reason != "unready":
            self._eject(endpoint, "unready")

    def _eject(
        self, endpoint: _Endpoint, reason: EjectionReason, pause_seconds: float = FIRST_EJECTION_SECONDS
    ) -> None:
        probe_at = self._clock() + pause_seconds if reason == "errors" else math.inf
        endpoint.ejection = _Ejection(reason, self._serial, pause_seconds, probe_at)
        endpoint.failed_at.clear()

    @staticmethod
    def _end_probe(endpoint: _Endpoint, picked: Pick) -> None:
        if endpoint.probe is picked:
            endpoint.probe = None
