"""Who is next, and who has to leave a full queue."""

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gateway.telemetry.metrics import UpstreamMetrics
from gateway.telemetry.trace import RequestTrace
from gateway.upstream.concurrency_limiter import MAX_RETRY_AFTER_SECONDS, FairConcurrencyLimiter, Permit
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


@given(CALLERS, st.sampled_from("abcdz"))
def test_how_many_are_served_until_all_of_a_caller_are(callers: list[str], caller: str) -> None:
    """At most as many as are said, and exactly those if all lines are equally long."""
    queue, _ = filled(callers, 1000)
    said = queue.turns_of(caller)
    if caller not in callers:
        assert said == len({*callers, caller})
        return
    served = next(number for number in itertools.count(1) if queue.get()[0] and caller not in names(queue))
    assert served <= said
    if len({Counter(callers)[name] for name in callers}) == 1:
        assert said == len(callers)


def names(queue: FairQueue[tuple[str, int]]) -> set[str]:
    return set(queue._queues)


def turns(places: int, room: int, clock: Callable[[], float] = time.monotonic) -> FairConcurrencyLimiter:
    return FairConcurrencyLimiter(places, room, UpstreamMetrics(CollectorRegistry()).of("llm"), clock)


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


async def test_who_finds_the_queue_full_is_told_how_long_its_line_takes() -> None:
    """At a service that takes one request at a time, and three seconds for it. Callers take turns, and nobody is told
    to stay away for more than a minute."""
    now = 100.0
    places = turns(1, 4, lambda: now)
    held = await places.acquire("a", RequestTrace(), 1.0)
    line = deque([await waiting(places, "a") for _ in range(4)])
    with pytest.raises(asyncio.QueueFull):
        await places.acquire("a", RequestTrace(), 1.0)
    assert places.retry_after_seconds("a") == pytest.approx(4)
    for _ in range(20):
        now += 3
        held.release()
        held = await line.popleft()
        line.append(await waiting(places, "a"))
    assert places.retry_after_seconds("a") == pytest.approx(12, rel=0.1)
    assert places.retry_after_seconds("b") == pytest.approx(6, rel=0.1)
    dropped, other = line.pop(), await waiting(places, "b")
    with pytest.raises(asyncio.QueueFull):
        await dropped
    assert places.retry_after_seconds("a") == pytest.approx(18, rel=0.1)
    assert places.retry_after_seconds("b") == pytest.approx(6, rel=0.1)
    now += 1000
    assert places.retry_after_seconds("a") == MAX_RETRY_AFTER_SECONDS
    held.release()
    for task in (*line, other):
        task.cancel()
    await asyncio.gather(*line, other, return_exceptions=True)


async def test_the_time_in_which_places_are_free_says_nothing() -> None:
    """Of a service without a queue, which is idle for an hour between two bursts."""
    now = 100.0
    places = turns(2, 0, lambda: now)
    for _ in range(20):
        now += 3600
        both = [await places.acquire("a", RequestTrace(), 1.0) for _ in range(2)]
        with pytest.raises(asyncio.QueueFull):
            await places.acquire("a", RequestTrace(), 1.0)
        now += 5
        for permit in both:
            permit.release()
    both = [await places.acquire("a", RequestTrace(), 1.0) for _ in range(2)]
    assert places.retry_after_seconds("a") == pytest.approx(5, rel=0.1)


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
