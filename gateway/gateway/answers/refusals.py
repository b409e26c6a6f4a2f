"""What a service has just refused, it is not asked again for a moment. Pure: the clock is handed in.

Under overload most requests are refused, and a refusal that has to be fetched costs the processor what the models next
to it could use. It is repeated in the service's own words, so that its `Retry-After` is as true as it was; and for so
short a time that the service, whose queue is seconds long, never runs dry for it.
"""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from gateway.calls import Call
from onecard.lanes import LANE_HEADER, most_texts
from onecard.wire import TIMEOUT_HEADER

T = TypeVar("T")

REMEMBERED_SECONDS = 0.1
_MOST = 1000


def terms(call: Call) -> Hashable | None:
    """Equal for requests that a service refuses alike: those of a lane and size. None for one that names a time limit,
    which is judged by that."""
    headers = call.headers
    return None if TIMEOUT_HEADER in headers else (call.path, headers.get(LANE_HEADER), most_texts(call.body))


class Refusals(Generic[T]):
    """The latest refusal by terms."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refusals: dict[Hashable, tuple[float, T]] = {}

    def add(self, terms: Hashable | None, refusal: T) -> None:
        """It is refused now."""
        if len(self._refusals) >= _MOST:
            self._refusals.clear()
        if terms is not None:
            self._refusals[terms] = self._clock() + REMEMBERED_SECONDS, refusal

    def recent(self, terms: Hashable | None) -> T | None:
        """How requests of these terms have just been refused, if they have."""
        if not self._refusals:
            return None
        until, refusal = self._refusals.get(terms, (0.0, None))
        return refusal if self._clock() < until else None
