"""The async shell, with clients that leave, that cannot wait, or that come in vain."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from onecard.errors import DeadlineExceeded, TooBusy
from tests.shared.batching.support import OpenBatcher, SumEngine, blocking_device, open_batcher
from tests.shared.cache.support import eventually


async def test_what_a_client_that_left_asked_for_never_runs() -> None:
    """Cancelled requests are taken out of the queue."""
    event, wait = blocking_device()
    engine = SumEngine(wait)
    async with open_batcher(engine) as at:
        first = asyncio.create_task(at.ask([1]))
        await eventually(lambda: engine.begun == [1])
        gone = asyncio.create_task(at.ask([2], [3]))
        stays = asyncio.create_task(at.ask([4]))
        await at.waits(3)
        gone.cancel()
        await at.waits(1)
        event.set()
        assert await asyncio.gather(first, stays) == [[1], [4]]
    assert engine.ran == [[1], [4]]


async def test_texts_can_be_withdrawn_until_they_have_begun() -> None:
    """The rest is delivered as batches end; what was withdrawn never runs."""
    event, wait = blocking_device()
    engine = SumEngine(wait)
    delivered: list[tuple[int, int]] = []
    async with open_batcher(engine, texts=2) as at:
        job = at.batcher.enqueue([[1], [2], [3], [4], [5]], lane="bulk", timeout_seconds=5, deliver=delivered.extend)
        finishing = asyncio.create_task(at.batcher.wait(job))
        await eventually(lambda: at.metric("queue_tokens", lane="bulk") == 3)
        assert set(at.batcher.withdraw(job, [0, 2, 4])) == {2, 4}
        assert at.batcher.withdraw(job, [2]) == set()
        assert at.metric("queue_tokens", lane="bulk") == 1
        event.set()
        await finishing
        assert at.metric("queue_tokens", lane="bulk") == 0
    assert engine.ran == [[1, 2], [4]]
    assert delivered == [(0, 1), (1, 2), (3, 4)]


async def test_a_job_of_which_all_is_withdrawn_ends() -> None:
    """Nobody waits for ever."""
    event, wait = blocking_device()
    begun = threading.Event()
    async with open_batcher(SumEngine(lambda batch: begun.set() or wait(batch))) as at:
        first = asyncio.create_task(at.ask([1]))
        await asyncio.to_thread(begun.wait, 20)
        job = at.batcher.enqueue([[2], [3]], lane="interactive", timeout_seconds=5, deliver=lambda results: None)
        at.batcher.withdraw(job, [0, 1])
        await at.batcher.wait(job)
        event.set()
        assert await first == [1]


async def test_a_deadline_is_kept_and_late_work_is_not_done() -> None:
    """504 when the time is over; what had not begun never runs."""
    event, wait = blocking_device()
    engine = SumEngine(wait)
    async with open_batcher(engine) as at:
        first = asyncio.create_task(at.ask([1]))
        await eventually(lambda: engine.begun == [1])
        with pytest.raises(DeadlineExceeded):
            await at.ask([2], seconds=0.2)
        event.set()
        assert await first == [1]
        assert await at.ask([3]) == [3]
        assert at.metric("queue_late_total", lane="interactive") == 1
    assert [2] not in engine.ran


@asynccontextmanager
async def full_queue() -> AsyncIterator[tuple[OpenBatcher, threading.Event]]:
    """A batcher for 100 tokens a second that computes 50, while 450 wait of which 400 may; the event lets it go on."""
    event, wait = blocking_device()
    engine = SumEngine(wait)
    async with open_batcher(engine, rate=100, queue=400) as at:
        asked = [asyncio.create_task(at.ask([1] * 50, lane="bulk", seconds=60))]
        await eventually(lambda: engine.begun == [1])
        asked += [asyncio.create_task(at.ask([1] * 50, lane="bulk", seconds=60)) for _ in range(9)]
        await at.waits(450, "bulk")
        yield at, event
        event.set()
        await asyncio.gather(*asked)


async def test_too_much_is_refused_and_told_when_to_come_back() -> None:
    """By the time that what waits will take, and by the tokens that wait."""
    async with full_queue() as (at, _):
        with pytest.raises(TooBusy) as by_time:
            at.batcher.check_capacity("bulk", 10, timeout_seconds=8)
        assert by_time.value.headers == {"retry-after": "3"}  # 500 tokens at 100 a second; 2 s are affordable.
        with pytest.raises(TooBusy) as by_tokens:
            at.batcher.check_capacity("bulk", 10, timeout_seconds=600)
        assert by_tokens.value.headers == {"retry-after": "1"}  # 450 wait, 50 too many.
        at.batcher.check_capacity("interactive", 10, timeout_seconds=8)  # It would go before all of them.
        assert at.metric("queue_refused_total", lane="bulk") == 2


async def test_who_has_waited_as_told_finds_room_that_others_do_not() -> None:
    """In the time that is ahead and in the tokens that wait, up to limits of its own."""
    async with full_queue() as (at, event):
        for seconds in (12, 600):  # 5 s are ahead, of which 3 and 6 are affordable; 400 and 500 tokens may wait.
            with pytest.raises(TooBusy):
                at.batcher.check_capacity("bulk", 10, timeout_seconds=seconds)
            at.batcher.check_capacity("bulk", 10, timeout_seconds=seconds, has_waited=True)
        with pytest.raises(TooBusy) as by_time:
            at.batcher.check_capacity("bulk", 10, timeout_seconds=8, has_waited=True)
        assert by_time.value.headers == {"retry-after": "1"}  # 4 s are affordable.
        full = at.batcher.enqueue(
            [[1] * 100], lane="bulk", timeout_seconds=600, has_waited=True, deliver=lambda results: None
        )
        with pytest.raises(TooBusy) as by_tokens:
            await at.batcher.submit([[1] * 10], lane="bulk", timeout_seconds=600, has_waited=True)
        assert by_tokens.value.headers == {"retry-after": "1"}  # 550 wait, 50 too many.
        event.set()
        await at.batcher.wait(full)


async def test_what_cannot_be_done_in_time_is_said_at_once() -> None:
    """A request too large for its time limit gets its 504 before it costs the device anything."""
    engine = SumEngine()
    async with open_batcher(engine, rate=10) as at:
        with pytest.raises(DeadlineExceeded, match="need about 6 s"):
            await at.ask([1] * 60, seconds=5)
    assert engine.ran == []
