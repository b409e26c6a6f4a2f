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

Failure = Literal["away", "silent", "error", "refused", "full"]
"""What a request met with. Away: no connection, or one that ended early; silent: no first byte in time; error: 500 or
502; refused: 503, by which a service says that it is full or stopping; full: 429."""

Reason = Literal["errors", "away", "unready"]
"""Why a replica is out."""

Verdict = Literal["ready", "not ready", "silent"]
"""Outcome of a readiness check. Not ready: it says so, or nobody listens there; silent: no answer in time."""

FAILURES = 3
"""So many failures within `WINDOW_SECONDS`, without a success between them, put a replica out."""
WINDOW_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
"""A replica that is out for errors is tried after a pause, which doubles with each trial that fails."""
REFUSED_SECONDS = 1.0
"""A replica that has refused a request is asked last for so long. It stays in service: a full queue is no fault, and
pausing those who are full would take capacity away when it is short."""
SILENT_CHECKS = 2
LAST_SILENT_CHECKS = 5
"""So many checks in a row without an answer make a replica unready; more when it is the last one in service, since a
machine that is merely overloaded falls silent, too."""
FAR_SLOWER = 3.0
FAR_SLOWER_SECONDS = 0.05
"""A replica is slow when its answers take both so many times as long as the fastest one's, and so much longer."""
SLOWEST_WEIGHT = 10.0
"""A slow replica's requests count as many times over, up to this. Requests in flight alone tell nothing where one
comes at a time; the bound is there because answers also differ by what was asked for."""
MEASURED_SECONDS = 5.0
"""A measurement older than this is forgotten, so that a slow replica is looked at again."""
_SMOOTHING = 0.2
"""Weight of the newest time in the moving average."""


@dataclass(frozen=True)
class Ticket:
    """One request at one replica."""

    replica: int
    serial: int
    """Tickets are numbered as they are taken."""


@dataclass(frozen=True)
class _Out:
    reason: Reason
    serial: int
    """Tickets after this one were taken while the replica was out: what becomes of them says how it is now."""
    pause_seconds: float = FIRST_PAUSE_SECONDS
    trial_at: float = math.inf


@dataclass
class _Replica:
    in_flight: int = 0
    used: int = 0
    """Serial of its latest ticket."""
    out: _Out | None = None
    trial: Ticket | None = None
    failed_at: list[float] = field(default_factory=list)
    answered_at: float = -math.inf
    refused_at: float = -math.inf
    returned_at: float = -math.inf
    """When a readiness check last ended an absence."""
    silent_checks: int = 0
    seconds: float = 0.0
    """Moving average of the time to an answer."""

    @property
    def reachable(self) -> bool:
        return self.out is None or self.out.reason == "errors"


class Replicas:
    """The replicas of one service, by number from 0. One that nothing is known of yet is in service."""

    def __init__(self, count: int, clock: Callable[[], float]) -> None:
        self._replicas = [_Replica() for _ in range(count)]
        self._clock = clock
        self._serial = 0

    def in_flight(self, number: int) -> int:
        """Requests at the replica now."""
        return self._replicas[number].in_flight

    def out(self, number: int) -> Reason | None:
        """Why the replica is out; None while it is in service."""
        out = self._replicas[number].out
        return out.reason if out else None

    def elsewhere(self, tried: Collection[int]) -> bool:
        """Whether a replica is in service that a request has not been to, and that has not just refused another."""
        refused = self._clock() - REFUSED_SECONDS
        others = (one for number, one in enumerate(self._replicas) if number not in tried)
        return any(one.out is None and one.refused_at <= refused for one in others)

    def take(self, exclude: Collection[int] = ()) -> Ticket | None:
        """A ticket for the replica that is the best bet; None when all are away or unready and have a request each.

        Args:
            exclude: those that the request has been to; they are asked again only when there is nothing better.
        """
        ranks = ((self._rank(number, exclude), number) for number in range(len(self._replicas)))
        rank, number = min(ranks)
        if rank[0] == math.inf:
            return None
        replica = self._replicas[number]
        self._serial += 1
        ticket = Ticket(number, self._serial)
        replica.used = self._serial
        replica.in_flight += 1
        if replica.out is not None and replica.trial is None:
            replica.trial = ticket
        return ticket

    def _rank(self, number: int, exclude: Collection[int]) -> tuple[float, bool, float, int]:
        """Lowest is best: in service; has just refused; out for errors; away or unready. Then the least busy, then the
        least recently used. A trial that is due goes first, but not with a request that has failed once already."""
        replica = self._replicas[number]
        now = self._clock()
        if replica.out is None:
            tier = 1.0 if now < replica.refused_at + REFUSED_SECONDS else 0.0
        elif replica.out.reason == "errors":
            if replica.trial is None and now >= replica.out.trial_at and not exclude:
                return 0.0, False, 0.0, replica.used
            tier = 2.0
        else:
            tier = 3.0 if replica.trial is None else math.inf
        return tier, number in exclude, (replica.in_flight + 1) * self._weight(replica), replica.used

    def _weight(self, replica: _Replica) -> float:
        if len(self._replicas) == 1:
            return 1.0
        known = self._clock() - MEASURED_SECONDS
        fastest = min((one.seconds for one in self._replicas if one.out is None and one.answered_at > known), default=0)
        slow = replica.answered_at > known and replica.seconds > fastest + FAR_SLOWER_SECONDS
        if not slow or replica.seconds < FAR_SLOWER * fastest:
            return 1.0
        return min(replica.seconds / fastest, SLOWEST_WEIGHT) if fastest else SLOWEST_WEIGHT

    def give_back(self, ticket: Ticket) -> None:
        """The request is over; call it once for each ticket, whatever became of it."""
        replica = self._replicas[ticket.replica]
        replica.in_flight -= 1
        self._end_trial(replica, ticket)

    def answered(self, ticket: Ticket, seconds: float) -> None:
        """The replica began a good answer after so many seconds. A refusal for the request's own fault is one, too."""
        replica = self._replicas[ticket.replica]
        self._end_trial(replica, ticket)
        now = self._clock()
        known = now - replica.answered_at < MEASURED_SECONDS
        replica.seconds += (seconds - replica.seconds) * (_SMOOTHING if known else 1.0)
        replica.answered_at = now
        replica.failed_at.clear()
        replica.silent_checks = 0
        if replica.out is not None and ticket.serial > replica.out.serial:
            replica.out = None

    def failed(self, ticket: Ticket, failure: Failure) -> None:
        """The request failed, and the replica is to blame."""
        replica = self._replicas[ticket.replica]
        self._end_trial(replica, ticket)
        now = self._clock()
        refused = failure in ("refused", "full")
        if refused:
            replica.refused_at = now
        if replica.out is not None:
            if ticket.serial > replica.out.serial and replica.out.reason == "errors":
                pause = replica.out.pause_seconds * (1 if refused else 2)
                self._put_out(replica, "errors", min(pause, LONGEST_PAUSE_SECONDS))
            return
        if refused:
            return
        replica.failed_at = [at for at in replica.failed_at if at > now - WINDOW_SECONDS] + [now]
        if len(replica.failed_at) < FAILURES:
            return
        # A check that passed did not keep it from failing again at once: then only a request can tell.
        checks_mislead = now < replica.returned_at + WINDOW_SECONDS
        reason: Reason = "away" if failure == "away" and not checks_mislead else "errors"
        # The last one that can be reached stays: some of its answers are better than none.
        if reason == "away" or not self._last(replica):
            self._put_out(replica, reason)

    def checked(self, number: int, verdict: Verdict, began: float) -> bool:
        """A readiness check that began at second `began` is over.

        Returns: whether the replica is frozen and others are not, so that what waits there is better sent to them.
        """
        replica = self._replicas[number]
        if verdict == "ready":
            replica.silent_checks = 0
            if not replica.reachable:
                replica.out = None
                replica.failed_at.clear()
                replica.returned_at = self._clock()
        elif verdict == "not ready":
            self._unready(replica)
        elif replica.answered_at < began:
            replica.silent_checks += 1
            last = self._last(replica)
            if replica.silent_checks >= (LAST_SILENT_CHECKS if last else SILENT_CHECKS):
                self._unready(replica)
                return not last
        return False

    def _last(self, replica: _Replica) -> bool:
        """No other one is in service."""
        return not any(one.out is None for one in self._replicas if one is not replica)

    def _unready(self, replica: _Replica) -> None:
        if replica.out is None or replica.out.reason != "unready":
            self._put_out(replica, "unready")

    def _put_out(self, replica: _Replica, reason: Reason, pause_seconds: float = FIRST_PAUSE_SECONDS) -> None:
        trial_at = self._clock() + pause_seconds if reason == "errors" else math.inf
        replica.out = _Out(reason, self._serial, pause_seconds, trial_at)
        replica.failed_at.clear()

    @staticmethod
    def _end_trial(replica: _Replica, ticket: Ticket) -> None:
        if replica.trial is ticket:
            replica.trial = None
