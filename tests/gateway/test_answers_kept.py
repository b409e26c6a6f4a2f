"""How an answer is kept."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gateway.answers.cached_response import CachedResponse, CachedResponseCodec, cached_answer
from gateway.relay import WRITE_BYTES
from onecard.cache.memory_tier import MemoryTier
from onecard.cache.metrics import CacheMetrics
from onecard.cache.redis_tier import RedisTier
from onecard.cache.serialization import CorruptValue, seal
from onecard.cache.tiers import Cache, TypedCache
from onecard.web.buffer_semaphore import BufferSemaphore

codec = CachedResponseCodec()


@given(st.text(st.characters(max_codepoint=127)), st.binary())
def test_an_answer_comes_back_as_it_was(content_type: str, body: bytes) -> None:
    """Byte for byte."""
    assert codec.decode(codec.encode(CachedResponse(content_type, body))) == CachedResponse(content_type, body)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_corrupt(junk: bytes) -> None:
    """Nothing else is ever raised over what lies in Redis."""
    with suppress(CorruptValue):
        codec.decode(junk)


@pytest.mark.parametrize("content_type", ["text/ünsinn", "x" * 70_000])
def test_a_content_type_that_does_not_fit_is_not_kept(content_type: str) -> None:
    """The store counts it as dropped."""
    with pytest.raises(ValueError, match=r"ascii|65,535"):
        codec.encode(CachedResponse(content_type, b""))


@pytest.mark.parametrize(("memory", "held"), [(True, WRITE_BYTES), (False, 100_000)])
async def test_who_is_given_a_kept_answer_holds_room_for_what_he_adds(memory: bool, held: int) -> None:
    """All are given the same bytes of the process's memory; without it each has his own, and holds room for all."""
    sealed = {b"long": CachedResponse("text/plain", bytes(100_000)), b"short": CachedResponse("a/b", b"{}")}
    tier = MemoryTier(1_000_000 if memory else 0, time.time)
    cache = Cache(tier, RedisWith(sealed), CacheMetrics(CollectorRegistry()), time.time)
    kept = TypedCache(cache, "chat", codec, 60)
    room = BufferSemaphore(2 * held * 4 // 3 + 1)  # Of which three quarters are for long answers.
    leases = [room.lease() for _ in range(3)]
    asking = [
        asyncio.create_task(cached_answer(kept, b"long", {"state": {"held": lease, "timings": {}}})) for lease in leases
    ]
    await asyncio.wait(asking[:2])
    assert (room.used_bytes, asking[2].done()) == (2 * held, False)
    leases[0].close()
    answers = [answer for answer in await asyncio.gather(*asking) if answer]
    assert {answer.headers["content-length"] for answer in answers} == {"100000"}
    different = {id(answer.body.obj) for answer in answers if isinstance(answer.body, memoryview)}
    assert len(different) == (1 if memory else 3)
    for lease in leases:
        lease.close()
    short = await cached_answer(kept, b"short", {"state": {"held": room.lease(), "timings": {}}})
    assert short is not None
    assert (short.body, short.headers["x-cache"]) == (b"{}", "hit")


class RedisWith(RedisTier):
    """A Redis that has some responses, and gives each look-up a copy of its own, a moment later."""

    def __init__(self, responses: Mapping[bytes, CachedResponse]) -> None:
        self._responses = responses

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Read values, sealed as they are stored."""
        await asyncio.sleep(0)
        return [seal(key, codec.encode(self._responses[key]), int(time.time()) + 60) for key in keys]
