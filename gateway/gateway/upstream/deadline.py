"""How long a request may take, and how much of that is left. Pure: the clock is handed in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onecard.web.request_parsing import TIMEOUT_HEADER, timeout_seconds

SHARED_DEADLINE_SECONDS = 86_400.0
"""Of what several may wait for, each within a time limit of its own. The service's silence ends it sooner, and so does
the last of them when it leaves."""


@dataclass(frozen=True)
class Deadline:
    """The second on `clock` after which nobody waits for the answer."""

    at: float
    clock: Callable[[], float]

    @property
    def remaining(self) -> float:
        """Seconds until then; 0 when it has passed."""
        return max(0.0, self.at - self.clock())

    def headers(self) -> dict[str, str]:
        """What tells a service how long its answer is waited for, retries and queues up to here taken off."""
        return {TIMEOUT_HEADER: str(max(1, int(self.remaining * 1000)))}


def deadline_of(headers: Mapping[str, str], most: float, clock: Callable[[], float]) -> Deadline:
    """The deadline of a request that begins now: `most` seconds, or fewer if its client says so.

    Raises:
        InvalidRequest: the client says something that means nothing.
    """
    return Deadline(clock() + timeout_seconds(headers, most), clock)
