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
from onecard.cache import control
from onecard.cache.flight import Flights
from onecard.cache.keys import Facts, Json, Keyspace
from onecard.cache.tiers import Cache, Store
from onecard.cache.values import Corrupt

_COMPUTED_AT = struct.Struct("<d")
_FACTS = Facts(tokenizer="", precision="", engine=f"review {__version__}", window=0, truncation="")


@dataclass(frozen=True)
class Kept:
    """An answer."""

    body: bytes
    """JSON."""
    computed_at: float
    """Unix seconds."""


@dataclass(frozen=True)
class Unkept:
    """An answer that is given, and not kept for others."""

    answer: BaseModel


class KeptCodec:
    """The time, and the answer as it is."""

    def encode(self, value: Kept) -> bytes:
        """8 bytes of time, and the JSON."""
        return _COMPUTED_AT.pack(value.computed_at) + value.body

    def decode(self, payload: bytes) -> Kept:
        """The answer with its time.

        Raises:
            Corrupt: too short.
        """
        if len(payload) < _COMPUTED_AT.size:
            raise Corrupt("no time")
        return Kept(payload[_COMPUTED_AT.size :], _COMPUTED_AT.unpack_from(payload)[0])


class Shelf:
    """Answers from the cache, and computed where there are none; requests that are alike share one computation."""

    def __init__(self, cache: Cache, ttl_seconds: int, clock: Callable[[], float] = time.time) -> None:
        """Keep answers for `ttl_seconds`; `clock` gives Unix seconds."""
        self._kept = Store(cache, "review", KeptCodec(), ttl_seconds)
        self._clock = clock
        self._flights: Flights[Kept] = Flights()

    async def answer(
        self,
        question: Json,
        version: str,
        cache_control: str | None,
        compute: Callable[[], Awaitable[BaseModel | Unkept]],
    ) -> Response:
        """The answer to a question about reviews of that version; `cache_control` is the request's header.

        Raises:
            Exception: whatever `compute` raises. Nothing is kept then.
        """
        policy = control.read(cache_control)
        key = Keyspace("review", "answers", version, _FACTS).for_json(question)
        if policy.read and (kept := (await self._kept.get_many([key]))[0]) is not None:
            return self._response(kept, "hit")
        if not policy.store:
            return self._response(self._made(await compute()), "bypass")

        async def make_and_keep() -> Kept:
            computed = await compute()
            made = self._made(computed)
            if not isinstance(computed, Unkept):
                self._kept.set_many([(key, made)])
            return made

        joined = await self._flights.join(key, make_and_keep)
        return self._response(joined.result, "coalesced" if joined.coalesced else "miss")

    def _made(self, computed: BaseModel | Unkept) -> Kept:
        answer = computed.answer if isinstance(computed, Unkept) else computed
        return Kept(answer.model_dump_json().encode(), self._clock())

    def _response(self, kept: Kept, state: str) -> Response:
        age = max(0, round(self._clock() - kept.computed_at))
        return Response(kept.body, headers={"x-cache": state, "age": str(age)}, media_type="application/json")
