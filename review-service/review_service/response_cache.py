"""Answers that lie ready: kept in the cache under the version of the reviews that they were made from.

A review that comes, changes or goes makes another version, so that an answer about what was is never found again. An
answer shows its age (the header `age`, in seconds; RFC 9111), and `x-cache` says where it comes from.
"""

import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Response
from pydantic import BaseModel

from onecard import __version__
from onecard.cache import cache_policy
from onecard.cache.keys import JsonValue, Keyspace, ServingConfig
from onecard.cache.serialization import CorruptValue
from onecard.cache.tiers import Cache, TypedCache
from onecard.coalescing.single_flight import SingleFlight

_COMPUTED_AT = struct.Struct("<d")
_SERVING_CONFIG = ServingConfig(tokenizer="", precision="", engine=f"review {__version__}", window=0, truncation="")


@dataclass(frozen=True)
class VersionedResponse:
    """An answer."""

    body: bytes
    """JSON."""
    computed_at: float
    """Unix seconds."""


@dataclass(frozen=True)
class Uncacheable:
    """An answer that is given, and not kept for others."""

    response: BaseModel


class VersionedResponseCodec:
    """The time, and the answer as it is."""

    def encode(self, value: VersionedResponse) -> bytes:
        """8 bytes of time, and the JSON."""
        return _COMPUTED_AT.pack(value.computed_at) + value.body

    def decode(self, payload: bytes) -> VersionedResponse:
        """The answer with its time.

        Raises:
            Corrupt: too short.
        """
        if len(payload) < _COMPUTED_AT.size:
            raise CorruptValue("no time")
        return VersionedResponse(payload[_COMPUTED_AT.size :], _COMPUTED_AT.unpack_from(payload)[0])


class VersionedResponseCache:
    """Answers from the cache, and computed where there are none; requests that are alike share one computation."""

    def __init__(self, cache: Cache, ttl_seconds: int, clock: Callable[[], float] = time.time) -> None:
        """Keep answers for `ttl_seconds`; `clock` gives Unix seconds."""
        self._store = TypedCache(cache, "review", VersionedResponseCodec(), ttl_seconds)
        self._clock = clock
        self._single_flight: SingleFlight[VersionedResponse] = SingleFlight()

    async def get_or_compute(
        self,
        question: JsonValue,
        version: str,
        cache_control: str | None,
        compute: Callable[[], Awaitable[BaseModel | Uncacheable]],
    ) -> Response:
        """The answer to a question about reviews of that version; `cache_control` is the request's header.

        Raises:
            Exception: whatever `compute` raises. Nothing is kept then.
        """
        policy = cache_policy.parse(cache_control)
        key = Keyspace("review", "answers", version, _SERVING_CONFIG).for_json(question)
        if policy.read and (kept := (await self._store.get_many([key]))[0]) is not None:
            return self._response(kept, "hit")
        if not policy.store:
            return self._response(self._encode(await compute()), "bypass")

        async def make_and_keep() -> VersionedResponse:
            computed = await compute()
            made = self._encode(computed)
            if not isinstance(computed, Uncacheable):
                self._store.set_many([(key, made)])
            return made

        joined = await self._single_flight.do(key, make_and_keep)
        return self._response(joined.result, "coalesced" if joined.coalesced else "miss")

    def _encode(self, computed: BaseModel | Uncacheable) -> VersionedResponse:
        answer = computed.response if isinstance(computed, Uncacheable) else computed
        return VersionedResponse(answer.model_dump_json().encode(), self._clock())

    def _response(self, kept: VersionedResponse, state: str) -> Response:
        age = max(0, round(self._clock() - kept.computed_at))
        return Response(kept.body, headers={"x-cache": state, "age": str(age)}, media_type="application/json")
