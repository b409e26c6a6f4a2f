"""Who is next, and who has to leave a full queue."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gateway.telemetry.metrics import UpstreamMetrics
from gateway.telemetry.trace import RequestTrace
from gateway.upstream.concurrency_limiter import FairConcurrencyLimiter, Permit
from gateway.upstream.fair_queue import FairQueue

CALLERS = st.lists(st.sampled_from("abcd"), max_size=60)


def filled(callers: list[str], room: int) -> tuple[FairQueue[tuple[str, int]], list[tuple[str, int]]]:
    """A queue into which these have come in this order, and who had to leave it."""
    queue, left = FairQueue[tuple[str, int]](room), []
    for number, caller in enumerate(callers):
        out = queue.put(caller, (caller, number))
        left += [] if out is None else [out]
    return queue, left


@given(CALLERS, st.integers(0, 20))
def test_nobody_is_lost_and_a_callers_own_order_is_kept(callers: list[str], room: int) -> None:
    """All that came in come out or had to leave; there are never more than have room."""
    queue, left = filled(callers, room)
    assert len(queue) == min(room, len(callers))
    taken = [queue.get() for _ in range(len(queue))]
    assert sorted(taken + left, key=lambda item: item[1]) == list(zip(callers, range(len(callers)), strict=True))
    for caller in set(callers):
        numbers = [number for name, number in taken if name == caller]
        assert numbers == sorted(numbers)


@given(CALLERS)
def test_between_two_of_one_caller_everybody_else_has_a_turn(callers: list[str]) -> None:
    """However long that caller's line is."""
    queue, _ = filled(callers, 1000)
    waiting = Counter(callers)
    while queue:
        served = Counter(queue.get()[0] for _ in range(len(+waiting)))
        assert served == dict.fromkeys(+waiting, 1)
        waiting -= served


@given(CALLERS, st.integers(1, 20))
def test_a_full_queue_takes_the_room_from_the_longest_line(callers: list[str], room: int) -> None:
    """A caller who waits for less than an equal share of the room never has to leave."""
    queue, left = filled(callers, room)
    kept = Counter(queue.get()[0] for _ in range(len(queue)))
    for caller, _ in left:
        assert kept[caller] >= min(kept[name] for name in set(callers))
        assert kept[caller] >= room // len(set(callers))


@given(CALLERS, st.data())
def test_who_is_removed_is_not_served(callers: list[str], data: st.DataObject) -> None:
    """Removing somebody twice, or somebody who never came, changes nothing."""
    queue, _ = filled(callers, 1000)
    items = list(zip(callers, range(len(callers)), strict=True))
    gone = data.draw(st.sets(st.sampled_from(items))) if items else set()
    for item in [*gone, *gone, ("z", 0)]:
        queue.remove(item[0], item)
    assert {queue.get() for _ in range(len(queue))} == set(items) - gone


def turns(places: int, room: int) -> FairConcurrencyLimiter:
    return FairConcurrencyLimiter(places, room, UpstreamMetrics(CollectorRegistry()).of("llm"))


async def waiting(of: FairConcurrencyLimiter, caller: str, seconds: float = 60.0) -> asyncio.Task[Permit]:
    """A request of `caller` that has begun to wait."""
    task = asyncio.create_task(of.acquire(caller, RequestTrace(), seconds))
    await asyncio.sleep(0)
    return task


async def test_a_place_goes_from_hand_to_hand() -> None:
    """To one of each caller in turn; ending a turn twice frees one place."""
    places = turns(1, 10)
    first = await places.acquire("a", RequestTrace(), 1.0)
    flood = [await waiting(places, "a") for _ in range(3)]
    other = await waiting(places, "b")
    first.release()
    first.release()
    second = await flood[0]
    assert not other.done()
    second.release()
    third = await other
    assert not flood[1].done()
    third.release()
    for task in flood[1:]:
        (await task).release()
    (await places.acquire("c", RequestTrace(), 1.0)).release()


async def test_who_leaves_or_is_late_gives_the_place_up() -> None:
    """Also in the moment in which it comes."""
    places = turns(1, 10)
    held = await places.acquire("a", RequestTrace(), 1.0)
    with pytest.raises(TimeoutError):
        await places.acquire("b", RequestTrace(), 0.01)
    leaver, at_once, last = [await waiting(places, name) for name in "bcd"]
    leaver.cancel()
    held.release()  # Goes to c, who leaves before it can be told.
    at_once.cancel()
    (await last).release()
    assert (await asyncio.gather(leaver, at_once, return_exceptions=True))[0].__class__ is asyncio.CancelledError
    (await places.acquire("e", RequestTrace(), 0.01)).release()


async def test_who_has_no_room_any_more_is_told() -> None:
    """It is the newest of the longest line, not who came last."""
    places = turns(1, 2)
    held = await places.acquire("a", RequestTrace(), 1.0)
    older, newest = [await waiting(places, "a") for _ in range(2)]
    other = await waiting(places, "b")
    with pytest.raises(asyncio.QueueFull):
        await newest
    with pytest.raises(asyncio.QueueFull):
        await places.acquire("a", RequestTrace(), 1.0)
    held.release()
    (await older).release()
    (await other).release()
