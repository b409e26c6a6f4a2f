"""How long a request may take, and how much of that time is left. Pure: the clock is a parameter."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onecard.web.request_parsing import TIMEOUT_HEADER, timeout_seconds

SHARED_DEADLINE_SECONDS = 86_400.0
"""Time limit of a computation that several requests may share, each of which has a time limit of its own. It ends
sooner if the service is silent, or if all of them have left."""


@dataclass(frozen=True)
class Deadline:
    """The moment at which a request's time is over."""

    at: float
    """In seconds of `clock`."""
    clock: Callable[[], float]

    @property
    def remaining(self) -> float:
        """Seconds until then; 0 when it has passed."""
        return max(0.0, self.at - self.clock())

    def headers(self) -> dict[str, str]:
        """The header with which a service learns how long its response is waited for.

        Returns:
            `TIMEOUT_HEADER` with the remaining milliseconds, at least 1.
        """
        return {TIMEOUT_HEADER: str(max(1, int(self.remaining * 1000)))}


def deadline_of(headers: Mapping[str, str], max_seconds: float, clock: Callable[[], float]) -> Deadline:
    """The deadline of a request that begins now.

    Args:
        headers: of the request, with names in lower case.
        max_seconds: time limit if the client sets none; also the longest that it may set.
        clock: monotonic seconds.

    Returns:
        The earlier one of the two.

    Raises:
        InvalidRequest: the client's time limit is not a number of milliseconds.
    """
    return Deadline(clock() + timeout_seconds(headers, max_seconds), clock)
