"""When to stop asking a server that does not answer, and when to try it again. Pure."""

from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "probing"]


class Breaker:
    """Closed: ask. Open: do not, until a probe is due. Probing: one probe is under way, nobody else asks.

    Starts open with a probe due at once: a server has to answer before it is relied on.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        soft_failures: int = 3,
        first_pause_seconds: float = 0.1,
        longest_pause_seconds: float = 1.0,
    ) -> None:
        """Take `soft_failures` in a row, or one `trip`, to open. Pauses double from the first to the longest."""
        self._clock = clock
        self._soft_failures = soft_failures
        self._first_pause = first_pause_seconds
        self._longest_pause = longest_pause_seconds
        self._state: State = "open"
        self._failures = 0
        self._pause = first_pause_seconds
        self._probe_at = clock()

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._state

    @property
    def closed(self) -> bool:
        """The server may be asked."""
        return self._state == "closed"

    def succeeded(self) -> None:
        """The server answered in time. Closes nothing: an answer to an earlier question may come late."""
        if self._state == "closed":
            self._failures = 0

    def fell_behind(self) -> None:
        """The server is answering, but too slowly; a few of these in a row open the breaker."""
        self._failures += 1
        if self._failures >= self._soft_failures:
            self.trip()

    def trip(self) -> None:
        """The server is silent, gone or refuses: open at once."""
        if self._state == "closed":
            self._state = "open"
            self._pause = self._first_pause
            self._probe_at = self._clock() + self._pause

    def seconds_to_probe(self) -> float:
        """How long until `begin_probe` may be called; 0 when it is due. Infinite while closed or probing."""
        if self._state != "open":
            return float("inf")
        return max(0.0, self._probe_at - self._clock())

    def begin_probe(self) -> bool:
        """Whether the caller is the one to probe now."""
        if self.seconds_to_probe() > 0:
            return False
        self._state = "probing"
        return True

    def end_probe(self, healthy: bool) -> None:
        """The probe's outcome: closed again, or open for longer."""
        if self._state != "probing":
            return
        if healthy:
            self._state = "closed"
            self._failures = 0
            return
        self._state = "open"
        self._probe_at = self._clock() + self._pause
        self._pause = min(self._pause * 2, self._longest_pause)
