"""The async shell, with engines that behave and engines that do not."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import pytest
from prometheus_client import CollectorRegistry

from onecard.batching.batcher import Batcher, Bounds
from onecard.batching.budget import RECOVERY_BATCHES, Limit
from onecard.batching.engine import EngineLost, OutOfMemory
from onecard.batching.metrics import BatchMetrics
from onecard.batching.queue import Batch, Lane
from onecard.batching.thread import DeviceThread
from onecard.errors import DeadlineExceeded, InternalError, TooBusy, Unavailable
from tests.shared.cache.support import eventually


@dataclass
class Finished:
    """Results that are there."""

    results: Sequence[int]

    def done(self) -> bool:
        return True

    def result(self) -> Sequence[int]:
        return self.results


@dataclass
class Engine:
    """Answers each text with the sum of its tokens; `before` may do anything to a batch first."""

    before: Callable[[Batch], None] = lambda batch: None
    ran: list[list[int]] = field(default_factory=list)
    """First token of each text, batch by batch."""

    def launch(self, batch: Batch) -> Finished:
        self.before(batch)
        self.ran.append([ids[0] for ids in batch.texts])
        return Finished([sum(ids) for ids in batch.texts])


@dataclass
class Opened:
    """A batcher with what surrounds it."""

    batcher: Batcher[int]
    registry: CollectorRegistry
    lost: list[bool]

    async def ask(self, *texts: list[int], lane: Lane = "interactive", seconds: float = 5) -> list[int]:
        return (await self.batcher.submit(texts, lane=lane, timeout_seconds=seconds)).results

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"onecard_{name}", labels) or 0.0


@asynccontextmanager
async def opened(
    engine: object, *, tokens: int = 64, texts: int = 8, rate: float = 1e6, queue: int = 10_000, hang: float = 30
) -> AsyncIterator[Opened]:
    registry = CollectorRegistry()
    lost: list[bool] = []
    bounds = Bounds(Limit(texts, tokens), tokens_per_second=rate, queue_tokens=queue, hang_seconds=hang)
    batcher: Batcher[int] = Batcher(
        engine,  # type: ignore[arg-type]
        bounds,
        thread=DeviceThread(),
        metrics=BatchMetrics(registry),
        on_lost=lambda: lost.append(True),
    )
    try:
        yield Opened(batcher, registry, lost)
    finally:
        await batcher.close(1)


def gate() -> tuple[threading.Event, Callable[[Batch], None]]:
    """A device that waits for a signal."""
    event = threading.Event()

    def wait(batch: Batch) -> None:
        event.wait(20)

    return event, wait


@pytest.mark.parametrize("seed", range(5))
async def test_every_text_is_answered_once_and_in_its_own_slot(seed: int) -> None:
    """Many requests of random sizes at once, some batches of which do not fit at first."""
    random = Random(seed)
    full = iter([random.random() < 0.2 for _ in range(10_000)])

    def sometimes_full(batch: Batch) -> None:
        if len(batch.pieces) > 1 and next(full):
            raise OutOfMemory

    engine = Engine(sometimes_full)
    requests = [
        [[random.randrange(1000) for _ in range(random.randint(1, 30))] for _ in range(random.randint(1, 12))]
        for _ in range(60)
    ]
    lanes: list[Lane] = [random.choice(["interactive", "bulk"]) for _ in requests]
    async with opened(engine) as at:
        answers = await asyncio.gather(
            *(at.ask(*texts, lane=lane) for texts, lane in zip(requests, lanes, strict=True))
        )
        assert at.metric("batch_out_of_memory_total") > 0
    assert answers == [[sum(ids) for ids in texts] for texts in requests]
    assert sum(map(len, engine.ran)) == sum(map(len, requests))


async def test_requests_share_batches() -> None:
    """What waits while the device is busy runs together."""
    event, wait = gate()
    engine = Engine(wait)
    async with opened(engine) as at:
        asked = [asyncio.create_task(at.ask([0]))]
        await asyncio.sleep(0.05)
        asked += [asyncio.create_task(at.ask([number])) for number in range(1, 6)]
        await asyncio.sleep(0.05)
        event.set()
        assert await asyncio.gather(*asked) == [[0], [1], [2], [3], [4], [5]]
    assert engine.ran == [[0], [1, 2, 3, 4, 5]]


async def test_an_exception_answers_its_batch_and_nothing_else() -> None:
    """The text that fails takes down only what ran with it; the next request is served."""
    event, wait = gate()

    def poisoned(batch: Batch) -> None:
        wait(batch)
        if any(13 in ids for ids in batch.texts):
            raise RuntimeError("no such token")

    async with opened(Engine(poisoned), texts=2) as at:
        asked = [asyncio.create_task(at.ask([1]))]
        await asyncio.sleep(0.05)
        asked += [asyncio.create_task(at.ask([number])) for number in (13, 2, 3, 4)]
        await asyncio.sleep(0.05)
        event.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(answer) for answer in answers] == [list, InternalError, InternalError, list, list]
        assert "no such token" not in str(answers[1])
        assert await at.ask([7]) == [7]
        assert at.metric("batch_errors_total") == 1
        assert at.batcher.alive


@pytest.mark.parametrize("results", [[], [1, 2, 3]])
async def test_a_wrong_number_of_results_is_an_error(results: list[int]) -> None:
    """Nobody gets somebody else's answer."""

    class Miscounting:
        def launch(self, batch: Batch) -> Finished:
            return Finished(results)

    async with opened(Miscounting()) as at:
        with pytest.raises(InternalError):
            await at.ask([1], [2])
        assert at.batcher.alive


@pytest.mark.parametrize("fits", [1, 7, 16, 33, 63])
async def test_out_of_memory_at_any_size(fits: int) -> None:
    """Batches over `fits` tokens run out: every request is answered, the budget shrinks, and it grows back."""
    largest = [fits]
    event, wait = gate()

    def small_only(batch: Batch) -> None:
        wait(batch)
        if batch.rows.area > largest[0]:
            raise OutOfMemory

    async with opened(Engine(small_only), texts=64) as at:
        asked = [asyncio.create_task(at.ask([n])) for n in range(200)]
        await asyncio.sleep(0.1)  # All wait when the device begins, so that batches are as large as they may be.
        event.set()
        assert await asyncio.gather(*asked) == [[n] for n in range(200)]
        shrunk = at.metric("batch_budget_tokens")
        assert at.metric("batch_out_of_memory_total") >= 1
        largest[0] = 10_000
        for number in range(RECOVERY_BATCHES * 7):
            await at.ask([number])
        assert shrunk <= max(fits, 1) < at.metric("batch_budget_tokens") == 64


async def test_a_single_text_that_cannot_fit_is_a_clear_503() -> None:
    """Its neighbours in the request's batch are answered by themselves; the service lives on."""

    def small_only(batch: Batch) -> None:
        if batch.rows.area > 16:
            raise OutOfMemory

    async with opened(Engine(small_only)) as at:
        with pytest.raises(Unavailable, match="does not fit"):
            await at.ask([1] * 40)
        assert await at.ask([1] * 16) == [16]


async def test_a_lost_device_answers_everybody_and_says_so_once() -> None:
    """503 at once for those who wait and those who come; the process is told to end."""
    event, wait = gate()

    def lose(batch: Batch) -> None:
        wait(batch)
        raise EngineLost("illegal memory access")

    async with opened(Engine(lose)) as at:
        asked = [asyncio.create_task(at.ask([n])) for n in range(5)]
        await asyncio.sleep(0.05)
        event.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(answer) for answer in answers} == {Unavailable}
        with pytest.raises(Unavailable):
            await at.ask([1])
        assert at.lost == [True]
        assert not at.batcher.alive


async def test_a_device_that_hangs_is_lost() -> None:
    """Nobody waits for ever; closing does not wait for the hanging thread either."""
    event, wait = gate()
    started = time.monotonic()
    async with opened(Engine(wait), hang=0.3) as at:
        with pytest.raises(Unavailable):
            await at.ask([1], seconds=20)
        assert at.lost == [True]
    assert time.monotonic() - started < 10
    event.set()


async def test_an_idle_device_does_not_count_as_hanging() -> None:
    """However long nothing is asked."""
    async with opened(Engine(), hang=0.2) as at:
        for _ in range(3):
            await asyncio.sleep(0.4)
            assert await at.ask([1]) == [1]
        assert at.batcher.alive


async def test_an_error_of_ours_cannot_end_the_loop_in_silence() -> None:
    """Even an exception that no engine should raise answers who waits."""

    def exit_(batch: Batch) -> None:
        raise SystemExit

    async with opened(Engine(exit_)) as at:
        with pytest.raises(Unavailable):
            await at.ask([1])
        assert at.lost == [True]


async def test_what_a_client_that_left_asked_for_never_runs() -> None:
    """Cancelled requests are taken out of the queue."""
    event, wait = gate()
    engine = Engine(wait)
    async with opened(engine) as at:
        first = asyncio.create_task(at.ask([1]))
        await asyncio.sleep(0.05)
        gone = asyncio.create_task(at.ask([2], [3]))
        stays = asyncio.create_task(at.ask([4]))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.sleep(0.05)
        event.set()
        assert await asyncio.gather(first, stays) == [[1], [4]]
    assert engine.ran == [[1], [4]]


async def test_texts_can_be_withdrawn_until_they_have_begun() -> None:
    """The rest is delivered as batches end; what was withdrawn never runs."""
    event, wait = gate()
    engine = Engine(wait)
    delivered: list[tuple[int, int]] = []
    async with opened(engine, texts=2) as at:
        job = at.batcher.accept([[1], [2], [3], [4], [5]], lane="bulk", timeout_seconds=5, deliver=delivered.extend)
        finishing = asyncio.create_task(at.batcher.finish(job))
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
    event, wait = gate()
    begun = threading.Event()
    async with opened(Engine(lambda batch: begun.set() or wait(batch))) as at:
        first = asyncio.create_task(at.ask([1]))
        await asyncio.to_thread(begun.wait, 20)
        job = at.batcher.accept([[2], [3]], lane="interactive", timeout_seconds=5, deliver=lambda results: None)
        at.batcher.withdraw(job, [0, 1])
        await at.batcher.finish(job)
        event.set()
        assert await first == [1]


async def test_a_receiver_that_fails_costs_nobody_else_an_answer() -> None:
    """In the same batch."""
    event, wait = gate()

    def fails(results: object) -> None:
        raise KeyError

    begun = threading.Event()
    async with opened(Engine(lambda batch: begun.set() or wait(batch))) as at:
        first = asyncio.create_task(at.ask([1]))
        await asyncio.to_thread(begun.wait, 20)
        job = at.batcher.accept([[2]], lane="interactive", timeout_seconds=5, deliver=fails)
        finishing = asyncio.create_task(at.batcher.finish(job))
        other = asyncio.create_task(at.ask([3]))
        await asyncio.sleep(0)
        event.set()
        assert await asyncio.gather(first, other) == [[1], [3]]
        with pytest.raises(InternalError):
            await finishing


async def test_a_deadline_is_kept_and_late_work_is_not_done() -> None:
    """504 when the time is over; what had not begun never runs."""
    event, wait = gate()
    engine = Engine(wait)
    async with opened(engine) as at:
        first = asyncio.create_task(at.ask([1]))
        await asyncio.sleep(0.05)
        with pytest.raises(DeadlineExceeded):
            await at.ask([2], seconds=0.2)
        event.set()
        assert await first == [1]
        assert await at.ask([3]) == [3]
        assert at.metric("queue_late_total", lane="interactive") == 1
    assert [2] not in engine.ran


async def test_too_much_is_refused_and_told_when_to_come_back() -> None:
    """By the time that what waits will take, and by the tokens that wait."""
    event, wait = gate()
    async with opened(Engine(wait), rate=100, queue=400) as at:
        asked = [asyncio.create_task(at.ask([1] * 50, lane="bulk", seconds=60))]
        await asyncio.sleep(0.05)
        asked += [asyncio.create_task(at.ask([1] * 50, lane="bulk", seconds=60)) for _ in range(9)]
        await asyncio.sleep(0.05)
        with pytest.raises(TooBusy) as by_time:
            at.batcher.check_room("bulk", 10, timeout_seconds=8)
        assert by_time.value.headers == {"retry-after": "3"}  # 500 tokens at 100 a second; 2 s are affordable.
        with pytest.raises(TooBusy) as by_tokens:
            at.batcher.check_room("bulk", 10, timeout_seconds=600)
        assert by_tokens.value.headers == {"retry-after": "1"}  # 450 wait, 50 too many.
        at.batcher.check_room("interactive", 10, timeout_seconds=8)  # It would go before all of them.
        assert at.metric("queue_refused_total", lane="bulk") == 2
        event.set()
        await asyncio.gather(*asked)


async def test_what_cannot_be_done_in_time_is_said_at_once() -> None:
    """A request too large for its time limit gets its 504 before it costs the device anything."""
    engine = Engine()
    async with opened(engine, rate=10) as at:
        with pytest.raises(DeadlineExceeded, match="need about 6 s"):
            await at.ask([1] * 60, seconds=5)
    assert engine.ran == []


async def test_interactive_overtakes_bulk() -> None:
    """A short question is answered while a long list is still being worked on."""
    event, wait = gate()
    engine = Engine(wait)
    async with opened(engine, texts=4) as at:
        bulk = asyncio.create_task(at.ask(*([n] for n in range(100, 140)), lane="bulk"))
        await asyncio.sleep(0.05)
        quick = asyncio.create_task(at.ask([7]))
        await asyncio.sleep(0.05)
        event.set()
        await asyncio.gather(bulk, quick)
    assert engine.ran[1][0] == 7


async def test_a_gpu_has_its_next_batch_before_the_first_one_ends() -> None:
    """Two batches are begun at most; results are collected in order."""
    begun: list[int] = []
    finish = threading.Event()

    class Late(Finished):
        def done(self) -> bool:
            return finish.is_set()

        def result(self) -> Sequence[int]:
            finish.wait(20)
            return self.results

    class Device:
        def launch(self, batch: Batch) -> Late:
            begun.append(len(batch.pieces))
            return Late([sum(ids) for ids in batch.texts])

    async with opened(Device(), texts=2) as at:
        asked = [asyncio.create_task(at.ask([n])) for n in range(8)]
        await asyncio.sleep(0.2)
        assert len(begun) == 2
        finish.set()
        assert await asyncio.gather(*asked) == [[n] for n in range(8)]
