"""The async shell, with engines and receivers that fail."""

import asyncio
import threading

import pytest

from onecard.batching.batch_limit import RECOVERY_BATCHES
from onecard.batching.engine import EngineLost, OutOfMemory
from onecard.batching.queue import Batch
from onecard.errors import InternalError, Unavailable
from tests.shared.batching.support import FinishedBatch, SumEngine, blocking_device, open_batcher
from tests.shared.cache.support import eventually


async def test_an_exception_answers_its_batch_and_nothing_else() -> None:
    """The text that fails takes down only what ran with it; the next request is served."""
    event, wait = blocking_device()

    def poisoned(batch: Batch) -> None:
        wait(batch)
        if any(13 in ids for ids in batch.texts):
            raise RuntimeError("no such token")

    engine = SumEngine(poisoned)
    async with open_batcher(engine, texts=2) as at:
        asked = [asyncio.create_task(at.ask([1]))]
        await eventually(lambda: engine.begun == [1])
        asked += [asyncio.create_task(at.ask([number])) for number in (13, 2, 3, 4)]
        await at.waits(4)
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
        def launch(self, batch: Batch) -> FinishedBatch:
            return FinishedBatch(results)

    async with open_batcher(Miscounting()) as at:
        with pytest.raises(InternalError):
            await at.ask([1], [2])
        assert at.batcher.alive


@pytest.mark.parametrize("fits", [1, 7, 16, 33, 63])
async def test_out_of_memory_at_any_size(fits: int) -> None:
    """Batches over `fits` tokens run out: every request is answered, the budget shrinks, and it grows back."""
    largest = [fits]
    event, wait = blocking_device()

    def small_only(batch: Batch) -> None:
        wait(batch)
        if batch.packing.padded_tokens > largest[0]:
            raise OutOfMemory

    engine = SumEngine(small_only)
    async with open_batcher(engine, texts=64) as at:
        asked = [asyncio.create_task(at.ask([n])) for n in range(200)]
        # All wait when the device begins, so that batches are as large as they may be.
        await eventually(lambda: bool(engine.begun))
        await at.waits(200 - engine.begun[0])
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
        if batch.packing.padded_tokens > 16:
            raise OutOfMemory

    async with open_batcher(SumEngine(small_only)) as at:
        with pytest.raises(Unavailable, match="does not fit"):
            await at.ask([1] * 40)
        assert await at.ask([1] * 16) == [16]


async def test_a_lost_device_answers_everybody_and_says_so_once() -> None:
    """503 at once for those who wait and those who come; the process is told to end."""
    event, wait = blocking_device()

    def lose(batch: Batch) -> None:
        wait(batch)
        raise EngineLost("illegal memory access")

    engine = SumEngine(lose)
    async with open_batcher(engine) as at:
        asked = [asyncio.create_task(at.ask([n])) for n in range(5)]
        await eventually(lambda: bool(engine.begun))
        await at.waits(5 - engine.begun[0])
        event.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(answer) for answer in answers} == {Unavailable}
        with pytest.raises(Unavailable):
            await at.ask([1])
        assert at.lost == [True]
        assert not at.batcher.alive


async def test_a_device_that_hangs_and_is_given_up() -> None:
    """Nobody waits for ever; closing does not wait for the hanging thread either."""
    event, wait = blocking_device()
    engine = SumEngine(wait)
    async with open_batcher(engine) as at:
        asked = asyncio.create_task(at.ask([1], seconds=20))
        await eventually(lambda: bool(engine.begun))
        for _ in range(2):
            at.batcher.give_up()
        with pytest.raises(Unavailable):
            await asked
        assert at.lost == [True]
    assert not event.is_set(), "the device hangs until the end"
    event.set()


async def test_an_error_of_ours_cannot_end_the_loop_in_silence() -> None:
    """Even an exception that no engine should raise answers who waits."""

    def exit_(batch: Batch) -> None:
        raise SystemExit

    async with open_batcher(SumEngine(exit_)) as at:
        with pytest.raises(Unavailable):
            await at.ask([1])
        assert at.lost == [True]


async def test_a_receiver_that_fails_costs_nobody_else_an_answer() -> None:
    """In the same batch."""
    event, wait = blocking_device()

    def fails(results: object) -> None:
        raise KeyError

    begun = threading.Event()
    async with open_batcher(SumEngine(lambda batch: begun.set() or wait(batch))) as at:
        first = asyncio.create_task(at.ask([1]))
        await asyncio.to_thread(begun.wait, 20)
        job = at.batcher.enqueue([[2]], lane="interactive", timeout_seconds=5, deliver=fails)
        finishing = asyncio.create_task(at.batcher.wait(job))
        other = asyncio.create_task(at.ask([3]))
        await asyncio.sleep(0)
        event.set()
        assert await asyncio.gather(first, other) == [[1], [3]]
        with pytest.raises(InternalError):
            await finishing
