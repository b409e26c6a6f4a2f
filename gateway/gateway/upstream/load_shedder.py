"""Repeats a full encoder's refusals for a moment, so that it does not get requests that it would refuse.

`RecentRefusals` is pure: the clock is a parameter.

Under overload most requests are refused, and fetching each refusal takes processor time from the models on the same
machine. So a refusal is repeated to all but the clients whose own retry time has come. Those are sent to the encoder
with a header that says so, and it keeps room for them that newcomers cannot take (`onecard.batching.admission`). The
moment is so short that the encoder, whose queue is seconds long, never runs out of work.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
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
_MAX_TEXTS = 2048
"""Requests with more texts have one shape if they are about equally long."""
_LANE, _TIMEOUT = LANE_HEADER.encode(), TIMEOUT_HEADER.encode()


class RequestSignature:
    """What a request is recognised by. Computed on demand, and once for a request, because its body may be long."""

    def __init__(self, scope: Scope, body: bytes) -> None:
        """Compute nothing yet.

        Args:
            scope: of the request.
            body: of the request.
        """
        self._path: str = scope["path"]  # Not the scope, whose state holds the signature.
        self._headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
        self._body = body

    @cached_property
    def shape(self) -> Hashable | None:
        """What a refusal depends on: the lane, the number of texts and the approximate length.

        Equal for requests that an encoder refuses alike; None for a request with a time limit of its own, on which the
        refusal depends too.
        """
        lanes = []
        for name, value in self._headers:
            if name == _TIMEOUT:
                return None
            if name == _LANE:
                lanes.append(value)
        return self._path, *lanes, max_text_count(self._body, _MAX_TEXTS), len(self._body).bit_length()

    @cached_property
    def digest(self) -> bytes:
        """Of the body, which a refused client repeats."""
        return blake2b(self._body, digest_size=16).digest()


def _signature_of(scope: Scope, body: bytes) -> RequestSignature:
    """The signature of a request, kept in its state."""
    signature: RequestSignature = request_state(scope).setdefault("signature", RequestSignature(scope, body))
    return signature


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
        if not self.refusals.has_recent():
            return
        # Keys with a list of models pass: the check whether they may use this one comes first, and comes later.
        if getattr(request_state(scope).get("caller"), "models", None) is None and body not in self.cached_bodies:
            self.refusals.check(_signature_of(scope, body))

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
        signature = _signature_of(scope, request_state(scope)["body"])
        try:
            has_waited = self.refusals.check(signature)
        except TooBusy:
            request_state(scope)["quiet"] = True
            raise
        if has_waited:
            self.refusals.redeem(signature)
            request_state(scope)["has_waited"] = True
        response = await self._handler(scope, receive)
        if response.status_code == TooBusy.status:
            self.refusals.add(signature, response)
        elif response.status_code == 200:
            self.refusals.responded(signature, was_computed=response.headers.get("x-cache") != "hit")
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

    def responded(self, signature: RequestSignature, *, was_computed: bool = True) -> None:
        """Record a successful response.

        Args:
            signature: of the request.
            was_computed: whether the encoder computed any of it, and did not take all from its cache.
        """
        if self._schedule:
            self._schedule.forget(signature.digest)
        if was_computed:
            self._schedule.completed()

    def has_recent(self) -> bool:
        """Whether there is any refusal to repeat."""
        now = self._clock()
        while self._refusals:  # The oldest comes first.
            shape, refusal = next(iter(self._refusals.items()))
            if now < refusal.until:
                return True
            del self._refusals[shape]
        return False

    def add(self, signature: RequestSignature, response: Response) -> None:
        """Record a refusal, and replace its `retry-after` by the request's own retry time.

        Args:
            signature: of the request; without a shape, the refusal is not repeated to others.
            response: the encoder's 429; its headers are changed.
        """
        message, seconds = _too_busy_message(response), response.headers.get("retry-after", "")
        if message is None or not seconds.isdecimal():
            return
        refusal = _RecentRefusal(self._clock() + REMEMBERED_SECONDS, message, int(seconds))
        if signature.shape is not None:
            if len(self._refusals) >= _MAX_SHAPES:
                self._refusals.clear()
            self._refusals.pop(signature.shape, None)
            self._refusals[signature.shape] = refusal
        wait_seconds = self._wait_seconds(refusal, signature.digest)
        response.headers["retry-after"] = str(math.ceil(wait_seconds))

    def check(self, signature: RequestSignature) -> bool:
        """Refuse a request if one of its shape has just been refused, unless its retry time has come.

        Args:
            signature: of the request.

        Returns:
            Whether its retry time has come. It stays so until `redeem`, however late the client is.

        Raises:
            TooBusy: it is refused, with a retry time of its own.
        """
        self._schedule.tidy()
        retry_at = self._schedule.retry_at(signature.digest) if self._schedule else None
        if retry_at is not None and retry_at <= self._clock():
            return True
        refusal = self._refusals.get(signature.shape) if self.has_recent() else None
        if refusal is None:
            return False
        raise TooBusy(refusal.message, retry_after=self._wait_seconds(refusal, signature.digest))

    def redeem(self, signature: RequestSignature) -> None:
        """Use up the retry time of a request that is let through for it: it counts once.

        Args:
            signature: of the request.
        """
        self._schedule.redeem(signature.digest)

    def _wait_seconds(self, refusal: _RecentRefusal, digest: bytes) -> float:
        """How long a request has to wait: until the retry time that it has, since retrying early gains nothing."""
        now, retry_at = self._clock(), self._schedule.retry_at(digest)
        if retry_at is None or retry_at <= now:
            return self._schedule.appoint(digest, refusal.retry_after_seconds)
        return retry_at - now


def _too_busy_message(response: Response) -> str | None:
    """The message of a refusal for a full queue; None if it was refused for another reason."""
    error = orjson.loads(response.body)["error"]
    return error["message"] if error.get("code") == TooBusy.code and isinstance(error.get("message"), str) else None
