"""Repeats a full encoder's refusals for a moment, so that it does not get requests that it would refuse.

`RecentRefusals` is pure: the clock is a parameter.

Under overload most requests are refused, and fetching each refusal takes processor time from the models on the same
machine. So a refusal is repeated to all but the clients whose own retry time has come. Those are sent to the encoder
with a header that says so, and it keeps room for them that newcomers cannot take (`onecard.batching.admission`). The
moment is so short that the encoder, whose queue is seconds long, never runs out of work.
"""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from hashlib import blake2b

import orjson
from fastapi.responses import Response
from starlette.types import Receive, Scope

from gateway.routes import Handler
from gateway.upstream.retry_schedule import RetrySchedule
from onecard.errors import TooBusy
from onecard.inference.scheduling import LANE_HEADER, max_text_count
from onecard.web.middleware import request_state
from onecard.web.recent_bodies import RecentBodies
from onecard.web.request_parsing import TIMEOUT_HEADER

REMEMBERED_SECONDS = 0.5
"""How long a refusal is repeated."""
_MAX_SHAPES = 1000
_LANE, _TIMEOUT = LANE_HEADER.encode(), TIMEOUT_HEADER.encode()


def request_shape(scope: Scope, body: bytes) -> Hashable | None:
    """What a refusal depends on: the lane, the number of texts and the approximate length.

    Args:
        scope: of the request.
        body: of the request.

    Returns:
        Equal for requests that an encoder refuses alike; None for a request with a time limit of its own, on which the
        refusal depends too.
    """
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
    message: str
    retry_after_seconds: int
    """The encoder's own `Retry-After`."""


class EncoderLoadShedder:
    """Repeats an encoder's refusals for one route."""

    def __init__(self, handler: Handler, clock: Callable[[], float]) -> None:
        """Start without refusals.

        Args:
            handler: relays requests to the encoder.
            clock: monotonic seconds.
        """
        self._handler = handler
        self.refusals = RecentRefusals(clock)
        self.cached_bodies = RecentBodies()
        """Bodies whose response is probably cached. They are let through, because they need no encoder."""

    def check(self, scope: Scope, body: bytes) -> None:
        """Refuse a request before any work is done for it, if the encoder would refuse it.

        Args:
            scope: of the request.
            body: of the request.

        Raises:
            TooBusy: as `RecentRefusals.check`.
        """
        # Keys with a list of models pass: the check whether they may use this one comes first, and comes later.
        if getattr(request_state(scope).get("caller"), "models", None) is None and body not in self.cached_bodies:
            self.refusals.check(scope, body)

    async def handle(self, scope: Scope, receive: Receive) -> Response:
        """Relay a request unless the encoder would refuse it. At its retry time, the encoder learns that it has waited.

        Args:
            scope: of the request.
            receive: ASGI channel.

        Returns:
            The encoder's response; a refusal gets a `Retry-After` of its own.

        Raises:
            TooBusy: as `RecentRefusals.check`.
        """
        body: bytes = request_state(scope)["body"]
        try:
            has_waited = self.refusals.check(scope, body)
        except TooBusy:
            request_state(scope)["quiet"] = True
            raise
        if has_waited:
            self.refusals.redeem(body)
            request_state(scope)["has_waited"] = True
        response = await self._handler(scope, receive)
        if response.status_code == TooBusy.status:
            self.refusals.add(request_shape(scope, body), body, response)
        elif response.status_code == 200:
            self.refusals.responded(body, was_computed=response.headers.get("x-cache") != "hit")
        return response


class RecentRefusals:
    """The latest refusals of an encoder by request shape, and when refused requests may come again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start without refusals.

        Args:
            clock: monotonic seconds.
        """
        self._clock = clock
        self._refusals: dict[Hashable, _RecentRefusal] = {}
        self._schedule = RetrySchedule(clock)

    def responded(self, body: bytes, *, was_computed: bool = True) -> None:
        """Record a successful response.

        Args:
            body: of the request.
            was_computed: whether the encoder computed any of it, and did not take all from its cache.
        """
        self._schedule.completed(_digest(body), was_computed=was_computed)

    def add(self, shape: Hashable | None, body: bytes, response: Response) -> None:
        """Record a refusal, and replace its `retry-after` by the request's own retry time.

        Args:
            shape: as `request_shape` returns it; the refusal is not repeated to others if it is None.
            body: of the request.
            response: the encoder's 429; its headers are changed.
        """
        message, seconds = _too_busy_message(response), response.headers.get("retry-after", "")
        if message is None or not seconds.isdecimal():
            return
        refusal = _RecentRefusal(self._clock() + REMEMBERED_SECONDS, message, int(seconds))
        if shape is not None:
            if len(self._refusals) >= _MAX_SHAPES:
                self._refusals.clear()
            self._refusals[shape] = refusal
        wait_seconds = self._wait_seconds(refusal, _digest(body))
        response.headers["retry-after"] = str(math.ceil(wait_seconds))

    def check(self, scope: Scope, body: bytes) -> bool:
        """Refuse a request if one of its shape has just been refused, unless its retry time has come.

        Args:
            scope: of the request.
            body: of the request.

        Returns:
            Whether its retry time has come. It stays so until `redeem`, however late the client is.

        Raises:
            TooBusy: it is refused, with a retry time of its own.
        """
        if not self._refusals and not self._schedule:
            return False
        now, digest = self._clock(), _digest(body)
        retry_at = self._schedule.retry_at(digest)
        if retry_at is not None and retry_at <= now:
            return True
        refusal = self._refusals.get(request_shape(scope, body))
        if refusal is None or now >= refusal.until:
            return False
        raise TooBusy(refusal.message, retry_after=self._wait_seconds(refusal, digest))

    def redeem(self, body: bytes) -> None:
        """Use up the retry time of a request that is let through for it: it counts once.

        Args:
            body: of the request.
        """
        self._schedule.redeem(_digest(body))

    def _wait_seconds(self, refusal: _RecentRefusal, digest: bytes) -> float:
        """How long a request has to wait: until the retry time that it has, since retrying early gains nothing."""
        now, retry_at = self._clock(), self._schedule.retry_at(digest)
        if retry_at is None or retry_at <= now:
            return self._schedule.appoint(digest, refusal.retry_after_seconds)
        return retry_at - now


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).digest()


def _too_busy_message(response: Response) -> str | None:
    """The message of a refusal for a full queue; None if it was refused for another reason."""
    error = orjson.loads(response.body)["error"]
    return error["message"] if error.get("code") == TooBusy.code and isinstance(error.get("message"), str) else None
