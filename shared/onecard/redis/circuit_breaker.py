"""When to stop asking a server that does not answer, and when to try it again. Pure."""

from collections.abc import Callable
from typing import Literal

BreakerState = Literal["closed", "open", "probing"]

SLOW_REPLY_THRESHOLD = 3
INITIAL_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 1.0


class CircuitBreaker:
    """Closed: ask. Open: do not, until a probe is due. Probing: one probe is under way, nobody else asks.

    Starts open with a probe due at once: a server has to answer before it is relied on. One that falls silent is probed
    at once, too, for most pauses are short, but not if it has been well for less than the longest pause.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Open after `SLOW_REPLY_THRESHOLD` in a row, or one `trip`. Pauses double from the first to the longest."""
        self._clock = clock
        self.state: BreakerState = "open"
        self._slow_replies = 0
        self._backoff_seconds = 0.0
        self._closed_at = self._probe_at = clock()

    @property
    def closed(self) -> bool:
        """The server may be asked."""
        return self.state == "closed"

    def record_success(self) -> None:
        """The server answered in time. Closes nothing: an answer to an earlier question may come late."""
        self._slow_replies = 0

    def record_slow_reply(self) -> None:
        """The server is answering, but too slowly; a few of these in a row open the breaker."""
        self._slow_replies += 1
        if self._slow_replies >= SLOW_REPLY_THRESHOLD:
            self.trip()

    def trip(self, *, pausing: bool = False) -> None:
        """The server is silent, gone or refuses: open at once. `pausing`: it may have paused only for a moment."""
        if self.state == "closed":
            if self._clock() - self._closed_at > MAX_BACKOFF_SECONDS:
                self._backoff_seconds = 0.0
            self._open(0.0 if pausing else INITIAL_BACKOFF_SECONDS)

    def seconds_to_probe(self) -> float:
        """How long until `begin_probe` may be called; 0 when it is due. Infinite while closed or probing."""
        if self.state != "open":
            return float("inf")
        return max(0.0, self._probe_at - self._clock())

    def begin_probe(self) -> bool:
        """Whether the caller is the one to probe now."""
        if self.seconds_to_probe() > 0:
            return False
        self.state = "probing"
        return True

    def end_probe(self, healthy: bool) -> None:
        """The probe's outcome: closed again, or open for longer."""
        if self.state == "probing" and healthy:
            self.state = "closed"
            self._slow_replies = 0
            self._closed_at = self._clock()
        elif self.state == "probing":
            self._open(INITIAL_BACKOFF_SECONDS)

    def _open(self, least_pause: float) -> None:
        pause = max(self._backoff_seconds, least_pause)
        self.state = "open"
        self._probe_at = self._clock() + pause
        self._backoff_seconds = min(max(pause * 2, INITIAL_BACKOFF_SECONDS), MAX_BACKOFF_SECONDS)
