"""What a service has just refused, it is not asked again for a moment. Pure: the clock is handed in.

Under overload most requests are refused, and a refusal that has to be fetched costs the processor what the models next
to it could use. So it is repeated, to all but those who were told to come now: they find the room that has come free
meanwhile and that newcomers would have taken. The moment is so short that the service, whose queue is seconds long,
never runs dry for it.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from hashlib import blake2b

import orjson
from fastapi.responses import Response
from starlette.types import Scope

from onecard.errors import TooBusy
from onecard.inference.scheduling import LANE_HEADER, max_text_count
from onecard.web.request_parsing import TIMEOUT_HEADER

REMEMBERED_SECONDS = 0.5
RETURNED_SECONDS = 0.1
"""How long the refusal of one who came as told is repeated to others who do."""
MOST_LATER_SECONDS = 10.0
"""Most that is added to the service's own `Retry-After`: of those who are refused, most may never come back."""
_MOST_TERMS = 1000
_MOST_TOLD = 20_000
"""About 4 MB."""
_LANE, _TIMEOUT = LANE_HEADER.encode(), TIMEOUT_HEADER.encode()


def terms(scope: Scope, body: bytes) -> Hashable | None:
    """Equal for requests that a service refuses alike: those of a lane, a number of texts and about a length. None for
    one that names a time limit, which is judged by that."""
    lanes = []
    for name, value in scope["headers"]:
        if name == _TIMEOUT:
            return None
        if name == _LANE:
            lanes.append(value)
    return scope["path"], *lanes, max_text_count(body), len(body).bit_length()


@dataclass(frozen=True)
class _Refusal:
    until: float
    """When it is forgotten."""
    for_all_until: float
    """Until then there is no room for those either who come as told."""
    message: str
    seconds: int
    """Its own `Retry-After`."""


class Refusals:
    """The latest refusals of a service by terms, and who was told to come when: one after the other, as fast as
    requests are answered, so that not all come at once and are refused again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refusals: dict[Hashable, _Refusal] = {}
        self._told: OrderedDict[bytes, float] = OrderedDict()
        """When a request may come again, by the digest of its body, which clients repeat."""
        self._last = 0.0
        """The latest of these times."""
        self._pace = 1.0
        """Requests that were answered in a second."""
        self._since, self._answered = clock(), 0

    def answered(self, body: bytes) -> None:
        """The service has answered a request."""
        if self._told:
            self._told.pop(_digest(body), None)
        self._answered += 1
        if (seconds := self._clock() - self._since) >= 1:
            self._pace = max(1.0, self._answered / seconds)
            self._since, self._answered = self._clock(), 0

    def add(self, terms: Hashable | None, body: bytes, response: Response) -> None:
        """The service has refused a request, which gets a time of its own."""
        message, seconds = _too_busy(response), response.headers.get("retry-after", "")
        if terms is None or message is None or not seconds.isdecimal():
            return
        if len(self._refusals) >= _MOST_TERMS:
            self._refusals.clear()
        now, digest = self._clock(), _digest(body)
        for_all_until = now + RETURNED_SECONDS if digest in self._told else now
        refusal = _Refusal(now + REMEMBERED_SECONDS, for_all_until, message, int(seconds))
        self._refusals[terms] = refusal
        response.headers["retry-after"] = str(self._told_when(refusal, digest))

    def check(self, scope: Scope, body: bytes) -> None:
        """Let a request go to the service, or not.

        Raises:
            TooBusy: its like has just been refused, and it was not told to come now.
        """
        refusal = self._refusals.get(terms(scope, body)) if self._refusals else None
        if refusal is None or (now := self._clock()) >= refusal.until:
            return
        digest = _digest(body)
        due = self._told.get(digest)
        if due is not None and now < due:
            raise TooBusy(refusal.message, retry_after=due - now)  # As it was told: to ask more often gains nothing.
        if due is None or now < refusal.for_all_until:
            raise TooBusy(refusal.message, retry_after=self._told_when(refusal, digest))

    def _told_when(self, refusal: _Refusal, digest: bytes) -> int:
        now = self._clock()
        first = now + refusal.seconds
        self._last = max(first, self._last + 1 / self._pace)
        if self._last > first + MOST_LATER_SECONDS:
            self._last = first
        wait = math.ceil(self._last - now)
        # Half a second early is in time: clients' clocks and the way here differ.
        self._told[digest] = now + wait - 0.5
        self._told.move_to_end(digest)
        if len(self._told) > _MOST_TOLD:
            self._told.popitem(last=False)
        return wait


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).digest()


def _too_busy(response: Response) -> str | None:
    """What a service says that has no room now; None if it says something else."""
    error = orjson.loads(response.body)["error"]
    return error["message"] if error.get("code") == TooBusy.code and isinstance(error.get("message"), str) else None
