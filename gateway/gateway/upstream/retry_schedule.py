"""When refused requests may come again: as fast as the service can take them, and no faster. Pure.

What a refused client is told is a promise, which holds only if clients do not come faster than the service completes
requests. How many will come depends on who they are: some programs obey `Retry-After`, others never return. So the
schedule watches which part of them comes at its time, and plans for that part.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable

from gateway.upstream.completion_rate import CompletionRate

FIRST_PER_SECOND = 10.0
"""First estimate of the requests that the service completes in a second."""
FULL_SECONDS = 2.0
"""So long after a refusal the service counts as full, and its completions show what it can do."""
EARLY_SECONDS = 0.5
"""A request so long before its time is in time: clients' clocks and network latencies differ."""
LATE_SECONDS = 2.0
"""Who has not come so long after its time is not expected any more. It may come nevertheless."""
MAX_LATE_SECONDS = 600.0
"""So long after its time a client has lost it."""
MIN_RETURN_SHARE = 0.02
"""So many are always expected."""
_WEIGHT = 0.02
"""Of one client in the share of those who return."""
_MAX_APPOINTMENTS = 50_000
"""They take up about 15 MB."""


class RetrySchedule:
    """Times at which refused requests may come again, by the digests of their bodies, which clients repeat."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start without appointments.

        Args:
            clock: monotonic seconds.
        """
        self._clock = clock
        self._appointments: OrderedDict[bytes, float] = OrderedDict()
        """Those that have not been used, the oldest first."""
        self._expected: list[tuple[float, bytes]] = []
        """A heap of the times at which somebody may still come."""
        self._return_share = 1.0
        """The part of them that comes: a moving average."""
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
        return self._appointments.get(digest)

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
        queue_seconds = len(self._expected) * self._return_share / self._rate.per_second
        wait = max(1, min_seconds, math.ceil(queue_seconds))
        if len(self._appointments) >= _MAX_APPOINTMENTS:
            # Not one that is still expected: what has been promised is kept, and the new request gets no promise.
            self._forget_oldest(now - LATE_SECONDS)
        if len(self._appointments) < _MAX_APPOINTMENTS:
            self._appointments[digest] = retry_at = now + wait - EARLY_SECONDS
            heapq.heappush(self._expected, (retry_at, digest))
        return wait

    def redeem(self, digest: bytes) -> None:
        """Use up the appointment of a request that has come in time: it counts once.

        Args:
            digest: of its body.
        """
        if self._appointments.pop(digest, None) is not None:
            self._observe(came=True)

    def forget(self, digest: bytes) -> None:
        """Forget the appointment of a request that needs none any more: it has its answer.

        Args:
            digest: of its body.
        """
        self._appointments.pop(digest, None)

    def completed(self) -> None:
        """Record that the service has computed an answer."""
        if self._clock() - self._refused_at <= FULL_SECONDS:
            self._rate.record()

    def tidy(self) -> None:
        """Give up on clients that are late. Cheap enough for every request."""
        now = self._clock()
        while self._expected and self._expected[0][0] + LATE_SECONDS < now:
            retry_at, digest = heapq.heappop(self._expected)
            if self._appointments.get(digest) == retry_at:
                self._observe(came=False)
        while self._appointments and self._forget_oldest(now - MAX_LATE_SECONDS):
            pass

    def _forget_oldest(self, before: float) -> bool:
        """Forget the oldest appointment if its time was before this; returns whether it was."""
        digest, retry_at = next(iter(self._appointments.items()))
        if retry_at < before:
            del self._appointments[digest]
        return retry_at < before

    def _observe(self, *, came: bool) -> None:
        share = self._return_share + (came - self._return_share) * _WEIGHT
        self._return_share = max(MIN_RETURN_SHARE, share)
