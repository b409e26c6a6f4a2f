"""How an answer is kept."""

import asyncio
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gateway.answers.cached_response import CachedResponse, CachedResponseCodec, cached_answer
from onecard.cache.memory_tier import MemoryTier
from onecard.cache.metrics import CacheMetrics
from onecard.cache.serialization import CorruptValue
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


async def test_who_is_given_a_kept_answer_holds_room_for_it() -> None:
    """And only for it: all are given the same bytes, those who still wait for room among them."""
    cache = Cache(MemoryTier(1_000_000, time.time), None, CacheMetrics(CollectorRegistry()), time.time)
    kept = TypedCache(cache, "chat", codec, 60)
    kept.set_many([(b"long", CachedResponse("text/plain", bytes(100_000))), (b"short", CachedResponse("a/b", b"{}"))])
    room = BufferSemaphore(250_000)
    leases = [room.lease() for _ in range(3)]
    asking = [
        asyncio.create_task(cached_answer(kept, b"long", {"state": {"held": lease, "timings": {}}})) for lease in leases
    ]
    await asyncio.wait(asking[:2])
    assert (room.used_bytes, asking[2].done()) == (200_000, False)
    leases[0].close()
    answers = [answer for answer in await asyncio.gather(*asking) if answer]
    assert {answer.headers["content-length"] for answer in answers} == {"100000"}
    assert len({id(answer.body.obj) for answer in answers if isinstance(answer.body, memoryview)}) == 1
    for lease in leases:
        lease.close()
    short = await cached_answer(kept, b"short", {"state": {"held": room.lease(), "timings": {}}})
    assert short is not None
    assert (short.body, short.headers["x-cache"]) == (b"{}", "hit")
