"""The async shell, with engines that behave: what runs together, and in which order."""

import asyncio
import threading
from collections.abc import Sequence
from random import Random

import pytest

from onecard.batching.engine import OutOfMemory
from onecard.batching.queue import Batch, Lane
from tests.shared.batching.support import FinishedBatch, SumEngine, blocking_device, open_batcher
from tests.shared.cache.support import eventually


@pytest.mark.parametrize("seed", range(5))
async def test_every_text_is_answered_once_and_in_its_own_slot(seed: int) -> None:
    """Many requests of random sizes at once, some batches of which do not fit at first."""
    random = Random(seed)
    full = iter([random.random() < 0.2 for _ in range(10_000)])

    def sometimes_full(batch: Batch) -> None:
        if len(batch.items) > 1 and next(full):
            raise OutOfMemory

    engine = SumEngine(sometimes_full)
    requests = [
        [[random.randrange(1000) for _ in range(random.randint(1, 30))] for _ in range(random.randint(1, 12))]
        for _ in range(60)
    ]
    lanes: list[Lane] = [random.choice(["interactive", "bulk"]) for _ in requests]
    async with open_batcher(engine) as at:
        answers = await asyncio.gather(
            *(at.ask(*texts, lane=lane) for texts, lane in zip(requests, lanes, strict=True))
        )
        assert at.metric("batch_out_of_memory_total") > 0
    assert answers == [[sum(ids) for ids in texts] for texts in requests]
    assert sum(map(len, engine.ran)) == sum(map(len, requests))


async def test_requests_share_batches() -> None:
    """What waits while the device is busy runs together."""
    event, wait = blocking_device()
    engine = SumEngine(wait)
    async with open_batcher(engine) as at:
        asked = [asyncio.create_task(at.ask([0]))]
        await eventually(lambda: engine.begun == [1])
        asked += [asyncio.create_task(at.ask([number])) for number in range(1, 6)]
        await at.waits(5)
        event.set()
        assert await asyncio.gather(*asked) == [[0], [1], [2], [3], [4], [5]]
    assert engine.ran == [[0], [1, 2, 3, 4, 5]]


async def test_interactive_overtakes_bulk() -> None:
    """A short question is answered while a long list is still being worked on."""
    event, wait = blocking_device()
    engine = SumEngine(wait)
    async with open_batcher(engine, texts=4) as at:
        bulk = asyncio.create_task(at.ask(*([n] for n in range(100, 140)), lane="bulk"))
        await eventually(lambda: len(engine.begun) == 1)
        quick = asyncio.create_task(at.ask([7]))
        await at.waits(1)
        event.set()
        await asyncio.gather(bulk, quick)
    assert engine.ran[1][0] == 7


async def test_a_gpu_has_its_next_batch_before_the_first_one_ends() -> None:
    """Two batches are begun at most; results are collected in order."""
    begun: list[int] = []
    queued, collecting, finish = threading.Event(), threading.Event(), threading.Event()

    class Late(FinishedBatch):
        def done(self) -> bool:
            return finish.is_set()

        def result(self) -> Sequence[int]:
            collecting.set()
            finish.wait(20)
            return self.results

    class Device:
        def launch(self, batch: Batch) -> Late:
            queued.wait(20)
            begun.append(len(batch.items))
            return Late([sum(ids) for ids in batch.texts])

    async with open_batcher(Device(), texts=2) as at:
        asked = [asyncio.create_task(at.ask([n])) for n in range(8)]
        await asyncio.sleep(0)  # Each task has put its request into the queue.
        queued.set()
        # The thread waits for the first one, so that it begins no other.
        assert await asyncio.to_thread(collecting.wait, 20)
        assert len(begun) == 2
        finish.set()
        assert await asyncio.gather(*asked) == [[n] for n in range(8)]
