"""A request that fails, and others that have joined the computation of its texts."""

import asyncio

import pytest

from onecard.batching.engine import OutOfMemory
from onecard.batching.queue import Batch
from onecard.errors import InternalError, Unavailable
from tests.shared.batching.support import SumEngine, blocking_device, open_batcher
from tests.shared.cache.support import eventually
from tests.shared.cache.test_flight import settle
from tests.shared.inference.support import ask, inference_over

FAULTY = 13


@pytest.mark.parametrize("texts", [1, 8])
@pytest.mark.parametrize(
    ("fault", "error"), [(None, InternalError), (OutOfMemory(), Unavailable), (RuntimeError(), InternalError)]
)
async def test_a_faulty_text_fails_nobody_who_waits_for_others(
    texts: int, fault: Exception | None, error: type[Exception]
) -> None:
    """Whether its result is no number, it does not fit into memory, or the engine fails on its batch; and whether the
    others ran with it, or were to run after it."""
    event, wait = blocking_device()

    def before(batch: Batch) -> None:
        wait(batch)
        if fault is not None and [FAULTY] in batch.texts:
            raise fault

    engine = SumEngine(before)
    async with open_batcher(engine, texts=texts, is_valid=lambda result: result != FAULTY) as at:
        inference = inference_over(at, cached=True)
        first = asyncio.create_task(ask(inference, [[1]]))
        await eventually(lambda: engine.begun == [1])
        failing = asyncio.create_task(ask(inference, [[2], [FAULTY], [3], [4]]))
        await at.waits(4)
        joined = [asyncio.create_task(ask(inference, inputs)) for inputs in ([[3]], [[2], [4]])]
        await settle()
        event.set()
        assert await asyncio.gather(first, *joined) == [[1], [3], [2, 4]]
        with pytest.raises(error):
            await failing


async def test_whoever_sent_the_faulty_text_fails_without_another_computation() -> None:
    """It would give the same."""
    event, wait = blocking_device()
    engine = SumEngine(wait)
    async with open_batcher(engine, is_valid=lambda result: result != FAULTY) as at:
        inference = inference_over(at, cached=True)
        first = asyncio.create_task(ask(inference, [[1]]))
        await eventually(lambda: engine.begun == [1])
        failing = [
            asyncio.create_task(ask(inference, inputs)) for inputs in ([[FAULTY], [2]], [[FAULTY]], [[3], [FAULTY]])
        ]
        await at.waits(3)
        event.set()
        assert await first == [1]
        for each in failing:
            with pytest.raises(InternalError):
                await each
        assert sum(ran.count(FAULTY) for ran in engine.ran) == 1
