"""The response cache. The key contains the version of the reviews from which a response was computed.

When a review is added, changed or deleted, the version changes, so that an outdated response is never found again. The
header `age` has the age of a response in seconds (RFC 9111); `x-cache` says whether it was cached.
"""

import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Response
from pydantic import BaseModel

from onecard import __version__
from onecard.batching.queue import Lane
from onecard.cache import directives
from onecard.cache.keys import JsonValue, Keyspace, ServingConfig
from onecard.cache.serialization import CorruptValue
from onecard.cache.tiers import Cache, TypedCache
from onecard.coalescing.single_flight import SingleFlight

_COMPUTED_AT = struct.Struct("<d")
_SERVING_CONFIG = ServingConfig(tokenizer="", precision="", engine=f"review {__version__}", window=0, truncation="")


@dataclass(frozen=True)
class VersionedResponse:
    """A response as it is cached."""

    body: bytes
    """The body as JSON."""
    computed_at: float
    """Unix time in seconds."""


@dataclass(frozen=True)
class Uncacheable:
    """Marks a computed response that must not be cached."""

    response: BaseModel


class VersionedResponseCodec:
    """Stores a response as its time, a little-endian double, followed by its body."""

    def encode(self, value: VersionedResponse) -> bytes:
        """Encode a response for the cache: 8 bytes of time, then the body."""
        return _COMPUTED_AT.pack(value.computed_at) + value.body

    def decode(self, payload: bytes) -> VersionedResponse:
        """Decode a response that the cache returned.

        Args:
            payload: What `encode` returned, unless it was damaged in the cache.

        Returns:
            The response.

        Raises:
            CorruptValue: The payload is shorter than the time.
        """
        if len(payload) < _COMPUTED_AT.size:
            raise CorruptValue("no time")
        return VersionedResponse(payload[_COMPUTED_AT.size :], _COMPUTED_AT.unpack_from(payload)[0])


class VersionedResponseCache:
    """Answers requests from the cache. On a miss, identical requests of a lane share one computation at a time."""

    def __init__(self, cache: Cache, ttl_seconds: int, clock: Callable[[], float] = time.time) -> None:
        """Cache responses for `ttl_seconds`. `clock` returns the Unix time in seconds."""
        self._store = TypedCache(cache, "review", VersionedResponseCodec(), ttl_seconds)
        self._clock = clock
        self._single_flight: SingleFlight[VersionedResponse] = SingleFlight()

    async def get_or_compute(
        self,
        key_fields: JsonValue,
        version: str,
        cache_control: str | None,
        lane: Lane,
        compute: Callable[[], Awaitable[BaseModel | Uncacheable]],
    ) -> Response:
        """Return the cached response to a request, or compute it and cache it.

        Args:
            key_fields: What distinguishes the request from others.
            version: Version of the reviews from which the response is computed.
            cache_control: The request's `cache-control` header; None if it has none.
            lane: The lane in which the response is computed. The cache is the same for both.
            compute: Computes the body of the response in that lane.

        Returns:
            The response. `x-cache` is `hit`, `miss`, `coalesced` (computed by an identical request) or `bypass` (the
            header does not allow caching).

        Raises:
            Exception: What `compute` raises. Errors are not cached.
        """
        policy = directives.parse(cache_control)
        key = Keyspace("review", "answers", version, _SERVING_CONFIG).for_json(key_fields)
        if policy.read and (cached := (await self._store.get_many([key]))[0]) is not None:
            return self._response(cached, "hit")
        if not policy.store:
            return self._response(self._encode(await compute()), "bypass")

        async def compute_and_store() -> VersionedResponse:
            computed = await compute()
            encoded = self._encode(computed)
            if not isinstance(computed, Uncacheable):
                self._store.set_many([(key, encoded)])
            return encoded

        # A user's request does not join the worker's, which waits in the bulk lane, also for its errors.
        shared = await self._single_flight.do((key, lane), compute_and_store)
        return self._response(shared.result, "coalesced" if shared.coalesced else "miss")

    def _encode(self, computed: BaseModel | Uncacheable) -> VersionedResponse:
        body = computed.response if isinstance(computed, Uncacheable) else computed
        return VersionedResponse(body.model_dump_json().encode(), self._clock())

    def _response(self, response: VersionedResponse, status: str) -> Response:
        age = max(0, round(self._clock() - response.computed_at))
        return Response(response.body, headers={"x-cache": status, "age": str(age)}, media_type="application/json")
