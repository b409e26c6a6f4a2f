"""When refused requests may come again: as fast as the service can take them, and no faster. Pure.

What a refused client is told is a promise, which holds only if clients do not come faster than the service completes
requests. How many will come depends on who they are: some programs obey `Retry-After`, others never return. So the
schedule watches which part of them comes at its time, and plans for that part.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from gateway.upstream.completion_rate import CompletionRate

FIRST_PER_SECOND = 10.0
"""First estimate of the requests that the service completes in a second."""
PLANNED_PART = 0.9
"""So much of what the service can do is given to those who return: its speed changes, and newcomers take the rest."""
FULL_SECONDS = 2.0
"""So long after a refusal the service counts as full, and its completions show what it can do."""
EARLY_SECONDS = 0.5
"""A request so long before its time is in time: clients' clocks and network latencies differ."""
LATE_SECONDS = 2.0
"""Who has not come so long after its time is not expected any more. It may come nevertheless."""
MAX_LATE_SECONDS = 600.0
"""So long after its time a client has lost it."""
MAX_LENGTHENING = 2.0
"""No client has to wait so many times longer than the requests before it need by the latest estimates: earlier ones may
have been too careful."""
MIN_RETURN_SHARE = 0.02
"""So many are always expected."""
RETURNS_MEMORY_SECONDS = 5.0
"""In the share of those who return, a client of so long ago has 1/e of the weight of a new one."""
_RETURNS_MEMORY_CLIENTS = 20.0
"""The same for a client of so many before, where few are refused."""
_MAX_APPOINTMENTS = 50_000
"""They take up about 20 MB."""


@dataclass(order=True)
class _Appointment:
    retry_at: float
    digest: bytes = field(compare=False)
    state: Literal["expected", "came", "late", "cancelled"] = field(default="expected", compare=False)


class ReturnShare:
    """The part of the refused clients that comes again in time: an exponentially weighted mean."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Expect all of them.

        Args:
            clock: monotonic seconds.
        """
        self._clock = clock
        self._came = self._all = _RETURNS_MEMORY_CLIENTS
        self._since = clock()

    @property
    def value(self) -> float:
        """The share, above 0."""
        return max(MIN_RETURN_SHARE, self._came / self._all)

    def observe(self, *, came: bool) -> None:
        """Count a client whose time is over.

        Args:
            came: whether it came.
        """
        now = self._clock()
        age = min((now - self._since) / RETURNS_MEMORY_SECONDS, 1 / _RETURNS_MEMORY_CLIENTS)
        weight = math.exp(-age)
        self._came = self._came * weight + came
        self._all = self._all * weight + 1
        self._since = now


class RetrySchedule:
    """Times at which refused requests may come again, by the digests of their bodies, which clients repeat."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start without appointments.

        Args:
            clock: monotonic seconds.
        """
        self._clock = clock
        self._appointments: OrderedDict[bytes, _Appointment] = OrderedDict()
        """Those that have not been used, the oldest first."""
        self._by_time: list[_Appointment] = []
        """A heap of those whose clients are not late yet."""
        self._expected = 0
        """How many of them have not come."""
        self._last = 0.0
        """The time that was given out last."""
        self._share = ReturnShare(clock)
        self._rate = CompletionRate(clock, FIRST_PER_SECOND)
        self._refused_at = -math.inf

    def __bool__(self) -> bool:
        """Whether there is any appointment."""
        return bool(self._appointments)

    def retry_at(self, digest: bytes) -> float | None:
        """When a request may come again.

        Args:
            digest: of its body.

        Returns:
            The time; None if it has no appointment.
        """
        appointment = self._appointments.get(digest)
        return None if appointment is None else appointment.retry_at

    def appoint(self, digest: bytes, min_seconds: int) -> int:
        """Give a refused request a time after those who were refused before it.

        Args:
            digest: of its body.
            min_seconds: the service's own `Retry-After`.

        Returns:
            Seconds until it may come again.
        """
        now = self._clock()
        if now - self._refused_at > FULL_SECONDS:
            self._rate.resume()
        self._refused_at = now
        self.tidy()
        self.forget(digest)
        step = self._share.value / (PLANNED_PART * self._rate.per_second)
        first = now + min_seconds
        self._last = max(first, min(self._last + step, first + MAX_LENGTHENING * self._expected * step))
        wait = max(1, math.ceil(self._last - now))
        if len(self._appointments) >= _MAX_APPOINTMENTS:
            # Not one that is still expected: what has been promised is kept, and the new request gets no promise.
            self._forget_oldest(now - LATE_SECONDS)
        if len(self._appointments) < _MAX_APPOINTMENTS:
            appointment = self._appointments[digest] = _Appointment(now + wait - EARLY_SECONDS, digest)
            heapq.heappush(self._by_time, appointment)
            self._expected += 1
        return wait

    def redeem(self, digest: bytes) -> None:
        """Use up the appointment of a request that has come in time: it counts once.

        Args:
            digest: of its body.
        """
        self._end(digest, "came")

    def forget(self, digest: bytes) -> None:
        """Forget the appointment of a request that needs none any more: it has its answer.

        Args:
            digest: of its body.
        """
        self._end(digest, "cancelled")

    def completed(self) -> None:
        """Record that the service has computed an answer."""
        if self._clock() - self._refused_at <= FULL_SECONDS:
            self._rate.record()

    def tidy(self) -> None:
        """Give up on clients that are late. Cheap enough for every request."""
        now = self._clock()
        while self._by_time and self._by_time[0].retry_at + LATE_SECONDS < now:
            appointment = heapq.heappop(self._by_time)
            if appointment.state == "expected":
                appointment.state = "late"
                self._expected -= 1
            # Those who came count now, too: earlier, they would outweigh those of whom it is not known yet.
            if appointment.state != "cancelled":
                self._share.observe(came=appointment.state == "came")
        while self._appointments and self._forget_oldest(now - MAX_LATE_SECONDS):
            pass

    def _end(self, digest: bytes, state: Literal["came", "cancelled"]) -> None:
        appointment = self._appointments.pop(digest, None)
        if appointment is not None and appointment.state == "expected":
            appointment.state = state
            self._expected -= 1

    def _forget_oldest(self, before: float) -> bool:
        """Forget the oldest appointment if its time was before this; returns whether it was."""
        digest, appointment = next(iter(self._appointments.items()))
        if appointment.retry_at < before:
            del self._appointments[digest]
        return appointment.retry_at < before
