"""Which replica of a service gets the next request. Pure: the clock is handed in, and events say what happened.

A replica is in service, or out for one of three reasons:

- `errors`: it can be reached, but fails. After a pause one request tries it; that one's success brings it back.
- `away`: connections to it fail. A readiness check that passes brings it back.
- `unready`: its readiness checks fail. One that passes brings it back.

A service may be out as a whole. Its replicas still get requests then, because what is known of them is some moments
old, and a gateway that refused everything would turn a short fault into a long one. A replica that is away or unready
gets one request at a time: when it is frozen, one client waits in vain and the others learn at once.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

from gateway.telemetry.outcomes import EjectionReason, Failure

HealthCheckResult = Literal["ready", "not ready", "silent"]
"""Outcome of a readiness check. Not ready: it says so, or nobody listens there; silent: no answer in time."""

EJECT_AFTER_FAILURES = 3
"""So many failures within `FAILURE_WINDOW_SECONDS`, without a success between them, put a replica out."""
FAILURE_WINDOW_SECONDS = 10.0
FIRST_EJECTION_SECONDS = 1.0
MAX_EJECTION_SECONDS = 30.0
"""A replica that is out for errors is tried after a pause, which doubles with each trial that fails."""
DEPRIORITIZED_SECONDS = 1.0
"""A replica that has refused a request is asked last for so long. It stays in service: a full queue is no fault, and
pausing those who are full would take capacity away when it is short."""
EJECT_AFTER_SILENT_CHECKS = 2
EJECT_LAST_AFTER_SILENT_CHECKS = 5
"""So many checks in a row without an answer make a replica unready; more when it is the last one in service, since a
machine that is merely overloaded falls silent, too."""
SLOW_RATIO = 3.0
SLOW_DIFFERENCE_SECONDS = 0.05
"""A replica is slow when its answers take both so many times as long as the fastest one's, and so much longer."""
MAX_SLOW_WEIGHT = 10.0
"""A slow replica's requests count as many times over, up to this. Requests in flight alone tell nothing where one
comes at a time; the bound is there because answers also differ by what was asked for."""
LATENCY_TTL_SECONDS = 5.0
"""A measurement older than this is forgotten, so that a slow replica is looked at again."""
_SMOOTHING = 0.2
"""Weight of the newest time in the moving average."""


@dataclass(frozen=True)
class Pick:
    """One request at one replica."""

    endpoint: int
    serial: int
    """Tickets are numbered as they are taken."""


@dataclass(frozen=True)
class _Ejection:
    reason: EjectionReason
    serial: int
    """Tickets after this one were taken while the replica was out: what becomes of them says how it is now."""
    duration_seconds: float = FIRST_EJECTION_SECONDS
    probe_at: float = math.inf


@dataclass
class _Endpoint:
    in_flight: int = 0
    last_pick: int = 0
    """Serial of its latest ticket."""
    ejection: _Ejection | None = None
    probe: Pick | None = None
    failed_at: list[float] = field(default_factory=list)
    responded_at: float = -math.inf
    refused_at: float = -math.inf
    returned_at: float = -math.inf
    """When a readiness check last ended an absence."""
    silent_checks: int = 0
    latency_seconds: float = 0.0
    """Moving average of the time to an answer."""

    @property
    def is_reachable(self) -> bool:
        return self.ejection is None or self.ejection.reason == "errors"


class EndpointSet:
    """The replicas of one service, by number from 0. One that nothing is known of yet is in service."""

    def __init__(self, count: int, clock: Callable[[], float]) -> None:
        self._endpoints = [_Endpoint() for _ in range(count)]
        self._clock = clock
        self._serial = 0

    def in_flight(self, number: int) -> int:
        """Requests at the replica now."""
        return self._endpoints[number].in_flight

    def ejected_for(self, number: int) -> EjectionReason | None:
        """Why the replica is out; None while it is in service."""
        out = self._endpoints[number].ejection
        return out.reason if out else None

    def has_alternative(self, tried: Collection[int]) -> bool:
        """Whether a replica is in service that a request has not been to, and that has not just refused another."""
        refused = self._clock() - DEPRIORITIZED_SECONDS
        others = (one for number, one in enumerate(self._endpoints) if number not in tried)
        return any(one.ejection is None and one.refused_at <= refused for one in others)

    def pick(self, exclude: Collection[int] = ()) -> Pick | None:
        """A ticket for the replica that is the best bet; None when all are away or unready and have a request each.

        Args:
            exclude: those that the request has been to; they are asked again only when there is nothing better.
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
        """Lowest is best: in service; has just refused; out for errors; away or unready. Then the least busy, then the
        least recently used. A trial that is due goes first, but not with a request that has failed once already."""
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
        known = self._clock() - LATENCY_TTL_SECONDS
        fastest = min(
            (one.latency_seconds for one in self._endpoints if one.ejection is None and one.responded_at > known),
            default=0,
        )
        slow = endpoint.responded_at > known and endpoint.latency_seconds > fastest + SLOW_DIFFERENCE_SECONDS
        if not slow or endpoint.latency_seconds < SLOW_RATIO * fastest:
            return 1.0
        return min(endpoint.latency_seconds / fastest, MAX_SLOW_WEIGHT) if fastest else MAX_SLOW_WEIGHT

    def release(self, picked: Pick) -> None:
        """The request is over; call it once for each ticket, whatever became of it."""
        endpoint = self._endpoints[picked.endpoint]
        endpoint.in_flight -= 1
        self._end_probe(endpoint, picked)

    def responded(self, picked: Pick, seconds: float) -> None:
        """The replica began a good answer after so many seconds. A refusal for the request's own fault is one, too."""
        endpoint = self._endpoints[picked.endpoint]
        self._end_probe(endpoint, picked)
        now = self._clock()
        known = now - endpoint.responded_at < LATENCY_TTL_SECONDS
        endpoint.latency_seconds += (seconds - endpoint.latency_seconds) * (_SMOOTHING if known else 1.0)
        endpoint.responded_at = now
        endpoint.failed_at.clear()
        endpoint.silent_checks = 0
        if endpoint.ejection is not None and picked.serial > endpoint.ejection.serial:
            endpoint.ejection = None

    def failed(self, picked: Pick, failure: Failure) -> None:
        """The request failed, and the replica is to blame."""
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
        # A check that passed did not keep it from failing again at once: then only a request can tell.
        checks_mislead = now < endpoint.returned_at + FAILURE_WINDOW_SECONDS
        reason: EjectionReason = "away" if failure == "away" and not checks_mislead else "errors"
        # The last one that can be reached stays: some of its answers are better than none.
        if reason == "away" or not self._is_last(endpoint):
            self._eject(endpoint, reason)

    def on_health_check(self, number: int, result: HealthCheckResult, began: float) -> bool:
        """A readiness check that began at second `began` is over.

        Returns: whether the replica is frozen and others are not, so that what waits there is better sent to them.
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
        """No other one is in service."""
        return not any(one.ejection is None for one in self._endpoints if one is not endpoint)

    def _eject_unready(self, endpoint: _Endpoint) -> None:
        if endpoint.ejection is None or endpoint.ejection.reason != "unready":
            self._eject(endpoint, "unready")

    def _eject(
        self, endpoint: _Endpoint, reason: EjectionReason, pause_seconds: float = FIRST_EJECTION_SECONDS
    ) -> None:
        trial_at = self._clock() + pause_seconds if reason == "errors" else math.inf
        endpoint.ejection = _Ejection(reason, self._serial, pause_seconds, trial_at)
        endpoint.failed_at.clear()

    @staticmethod
    def _end_probe(endpoint: _Endpoint, picked: Pick) -> None:
        if endpoint.probe is picked:
            endpoint.probe = None
