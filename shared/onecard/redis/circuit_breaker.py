"""A circuit breaker: when to stop using a server that does not reply, and when to try it again. Pure."""

from collections.abc import Callable
from typing import Literal

BreakerState = Literal["closed", "open", "probing"]

SLOW_REPLY_THRESHOLD = 3
"""Slow periods in a row that open the breaker."""
INITIAL_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 1.0
"""Pauses between probes double from the first of these to the second."""


class CircuitBreaker:
    """Closed: use the server. Open: wait until a probe is due. Probing: one probe is running.

    It starts open with a probe due at once: a server must reply before it is relied on. A server that falls silent is
    also probed at once, because most pauses are short, unless it has been closed for less than the longest pause.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start open, with a probe due at once.

        Args:
            clock: gives seconds; tests pass their own.
        """
        self._clock = clock
        self.state: BreakerState = "open"
        self._slow_replies = 0
        self._backoff_seconds = 0.0
        self._closed_at = self._probe_at = clock()

    @property
    def closed(self) -> bool:
        """Whether the server may be used."""
        return self.state == "closed"

    def record_success(self) -> None:
        """Reset the count of slow replies. Does not close the breaker: the reply may belong to an older request."""
        self._slow_replies = 0

    def record_slow_reply(self) -> None:
        """Count a period with too slow replies; `SLOW_REPLY_THRESHOLD` in a row open the breaker."""
        self._slow_replies += 1
        if self._slow_replies >= SLOW_REPLY_THRESHOLD:
            self.trip()

    def trip(self, *, pausing: bool = False) -> None:
        """Open at once: the server is silent, gone or refuses.

        Args:
            pausing: the server may only have paused, so the first probe is due at once.
        """
        if self.state == "closed":
            if self._clock() - self._closed_at > MAX_BACKOFF_SECONDS:
                self._backoff_seconds = 0.0
            self._open(0.0 if pausing else INITIAL_BACKOFF_SECONDS)

    def seconds_to_probe(self) -> float:
        """Seconds until `begin_probe` succeeds; 0 when a probe is due, infinity while closed or probing."""
        if self.state != "open":
            return float("inf")
        return max(0.0, self._probe_at - self._clock())

    def begin_probe(self) -> bool:
        """Start probing if a probe is due. Returns whether the caller is to run it."""
        if self.seconds_to_probe() > 0:
            return False
        self.state = "probing"
        return True

    def end_probe(self, healthy: bool) -> None:
        """End the probe.

        Args:
            healthy: closes the breaker; otherwise it opens again, for longer.
        """
        if self.state == "probing" and healthy:
            self.state = "closed"
            self._slow_replies = 0
            self._closed_at = self._clock()
        elif self.state == "probing":
            self._open(INITIAL_BACKOFF_SECONDS)

    def _open(self, min_pause: float) -> None:
        pause = max(self._backoff_seconds, min_pause)
        self.state = "open"
        self._probe_at = self._clock() + pause
        self._backoff_seconds = min(max(pause * 2, INITIAL_BACKOFF_SECONDS), MAX_BACKOFF_SECONDS)
