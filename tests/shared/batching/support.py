"""A batcher with what surrounds it, and engines for it."""

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from onecard.batching.batch_limit import BatchLimit
from onecard.batching.batcher import Batcher, BatcherConfig
from onecard.batching.device_thread import DeviceThread
from onecard.batching.metrics import BatchMetrics
from onecard.batching.queue import Batch, Lane
from tests.shared.cache.support import eventually


@dataclass
class FinishedBatch:
    """Results that are there."""

    results: Sequence[int]

    def done(self) -> bool:
        return True

    def result(self) -> Sequence[int]:
        return self.results


@dataclass
class SumEngine:
    """Answers each text with the sum of its tokens; `before` may do anything to a batch first."""

    before: Callable[[Batch], None] = lambda batch: None
    begun: list[int] = field(default_factory=list)
    """How many texts each batch has that the device was given."""
    ran: list[list[int]] = field(default_factory=list)
    """First token of each text, batch by batch."""

    def launch(self, batch: Batch) -> FinishedBatch:
        self.begun.append(len(batch.texts))
        self.before(batch)
        self.ran.append([ids[0] for ids in batch.texts])
        return FinishedBatch([sum(ids) for ids in batch.texts])


@dataclass
class OpenBatcher:
    """A batcher with what surrounds it."""

    batcher: Batcher[int]
    registry: CollectorRegistry
    lost: list[bool]

    async def ask(self, *texts: list[int], lane: Lane = "interactive", seconds: float = 5) -> list[int]:
        return (await self.batcher.submit(texts, lane=lane, timeout_seconds=seconds)).results

    async def waits(self, tokens: int, lane: Lane = "interactive") -> None:
        """Until so many tokens wait in a lane."""
        await eventually(lambda: self.metric("queue_tokens", lane=lane) == tokens)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"onecard_{name}", labels) or 0.0


@asynccontextmanager
async def open_batcher(
    engine: object,
    *,
    tokens: int = 64,
    texts: int = 8,
    rate: float = 1e6,
    queue: int = 10_000,
    is_valid: Callable[[int], bool] = lambda _: True,
) -> AsyncIterator[OpenBatcher]:
    """A batcher over an engine, closed at the end, whatever the device does."""
    registry = CollectorRegistry()
    lost: list[bool] = []
    bounds = BatcherConfig(BatchLimit(texts, tokens), tokens_per_second=rate, queue_tokens=queue)
    batcher: Batcher[int] = Batcher(
        engine,  # type: ignore[arg-type]
        bounds,
        thread=DeviceThread(),
        metrics=BatchMetrics(registry),
        on_lost=lambda: lost.append(True),
        is_valid=is_valid,
    )
    try:
        yield OpenBatcher(batcher, registry, lost)
    finally:
        await batcher.close(1)


def blocking_device() -> tuple[threading.Event, Callable[[Batch], None]]:
    """A device that waits for a signal."""
    event = threading.Event()

    def wait(batch: Batch) -> None:
        event.wait(20)

    return event, wait
