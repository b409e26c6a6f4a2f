"""What a service has just refused, it is not asked again for a moment.

`RecentRefusals` is pure: the clock is handed in.

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
from starlette.types import Receive, Scope

from gateway.routes import Handler
from onecard.errors import TooBusy
from onecard.inference.scheduling import LANE_HEADER, max_text_count
from onecard.web.middleware import request_state
from onecard.web.recent_bodies import RecentBodies
from onecard.web.request_parsing import TIMEOUT_HEADER

REMEMBERED_SECONDS = 0.5
RETURNED_SECONDS = 0.1
"""How long the refusal of one who came as told is repeated to others who do."""
MAX_EXTRA_SECONDS = 10.0
"""Most that is added to the service's own `Retry-After`: of those who are refused, most may never come back."""
_MAX_SHAPES = 1000
_MAX_APPOINTMENTS = 20_000
"""About 4 MB."""
_LANE, _TIMEOUT = LANE_HEADER.encode(), TIMEOUT_HEADER.encode()


def request_shape(scope: Scope, body: bytes) -> Hashable | None:
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
class _RecentRefusal:
    until: float
    """When it is forgotten."""
    for_all_until: float
    """Until then there is no room for those either who come as told."""
    message: str
    retry_after_seconds: int
    """Its own `Retry-After`."""


class EncoderLoadShedder:
    """Keeps a full encoder's refusals, and repeats them in its place, for one route."""

    def __init__(self, handler: Handler, clock: Callable[[], float]) -> None:
        """Take what answers the requests that are let through."""
        self._handler = handler
        self.refusals = RecentRefusals(clock)
        self.cached_bodies = RecentBodies()
        """What is cached, most likely: it is answered under overload, too."""

    def check(self, scope: Scope, body: bytes) -> None:
        """Refuse what the encoder would refuse, before anything is done for it.

        Raises:
            TooBusy: as `RecentRefusals.check`.
        """
        # A key that may not use all models is refused for that first.
        if getattr(request_state(scope).get("caller"), "models", None) is None and body not in self.cached_bodies:
            self.refusals.check(scope, body)

    async def handle(self, scope: Scope, receive: Receive) -> Response:
        """The response of the encoder, or a refusal.

        Raises:
            TooBusy: as `RecentRefusals.check`.
        """
        body: bytes = request_state(scope)["body"]
        try:
            self.refusals.check(scope, body)
        except TooBusy:
            request_state(scope)["quiet"] = True
            raise
        response = await self._handler(scope, receive)
        if response.status_code == TooBusy.status:
            self.refusals.add(request_shape(scope, body), body, response)
        elif response.status_code == 200:
            self.refusals.responded(body)
        return response


class RecentRefusals:
    """The latest refusals of a service by terms, and who was told to come when: one after the other, as fast as
    requests are answered, so that not all come at once and are refused again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refusals: dict[Hashable, _RecentRefusal] = {}
        self._appointments: OrderedDict[bytes, float] = OrderedDict()
        """When a request may come again, by the digest of its body, which clients repeat."""
        self._last_appointment = 0.0
        """The latest of these times."""
        self._responses_per_second = 1.0
        """Requests that were answered in a second."""
        self._since, self._response_count = clock(), 0

    def responded(self, body: bytes) -> None:
        """The service has answered a request."""
        if self._appointments:
            self._appointments.pop(_digest(body), None)
        self._response_count += 1
        if (seconds := self._clock() - self._since) >= 1:
            self._responses_per_second = max(1.0, self._response_count / seconds)
            self._since, self._response_count = self._clock(), 0

    def add(self, terms: Hashable | None, body: bytes, response: Response) -> None:
        """The service has refused a request, which gets a time of its own."""
        message, seconds = _too_busy_message(response), response.headers.get("retry-after", "")
        if terms is None or message is None or not seconds.isdecimal():
            return
        if len(self._refusals) >= _MAX_SHAPES:
            self._refusals.clear()
        now, digest = self._clock(), _digest(body)
        for_all_until = now + RETURNED_SECONDS if digest in self._appointments else now
        refusal = _RecentRefusal(now + REMEMBERED_SECONDS, for_all_until, message, int(seconds))
        self._refusals[terms] = refusal
        response.headers["retry-after"] = str(self._appoint(refusal, digest))

    def check(self, scope: Scope, body: bytes) -> None:
        """Let a request go to the service, or not.

        Raises:
            TooBusy: its like has just been refused, and it was not told to come now.
        """
        refusal = self._refusals.get(request_shape(scope, body)) if self._refusals else None
        if refusal is None or (now := self._clock()) >= refusal.until:
            return
        digest = _digest(body)
        due = self._appointments.get(digest)
        if due is not None and now < due:
            raise TooBusy(refusal.message, retry_after=due - now)  # As it was told: to ask more often gains nothing.
        if due is None or now < refusal.for_all_until:
            raise TooBusy(refusal.message, retry_after=self._appoint(refusal, digest))

    def _appoint(self, refusal: _RecentRefusal, digest: bytes) -> int:
        now = self._clock()
        first = now + refusal.retry_after_seconds
        self._last_appointment = max(first, self._last_appointment + 1 / self._responses_per_second)
        if self._last_appointment > first + MAX_EXTRA_SECONDS:
            self._last_appointment = first
        wait = math.ceil(self._last_appointment - now)
        # Half a second early is in time: clients' clocks and the way here differ.
        self._appointments[digest] = now + wait - 0.5
        self._appointments.move_to_end(digest)
        if len(self._appointments) > _MAX_APPOINTMENTS:
            self._appointments.popitem(last=False)
        return wait


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).digest()


def _too_busy_message(response: Response) -> str | None:
    """What a service says that has no room now; None if it says something else."""
    error = orjson.loads(response.body)["error"]
    return error["message"] if error.get("code") == TooBusy.code and isinstance(error.get("message"), str) else None
