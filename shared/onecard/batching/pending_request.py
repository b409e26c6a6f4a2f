"""A request that the batcher has accepted, until it has all its results."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from onecard.batching.queue import QueuedRequest
from onecard.errors import OnecardError

Result = TypeVar("Result")


@dataclass(frozen=True)
class StageDurations:
    """How long a request spent in each stage."""

    queue_seconds: float
    """From submission until its first text was on the device."""
    inference_seconds: float
    """From then until its last result."""


@dataclass(frozen=True)
class BatchOutcome(Generic[Result]):
    """Results of a request, and how long they took."""

    results: list[Result]
    """In the order of its texts."""
    durations: StageDurations


Deliver = Callable[[Sequence[tuple[int, Result]]], None]
"""Called with (index of the text, result) pairs as batches end."""


@dataclass(eq=False)
class PendingRequest(QueuedRequest, Generic[Result]):
    """An accepted request."""

    deliver: Deliver[Result] = field(kw_only=True)
    unfinished: int = field(init=False)
    """Texts without a result."""
    faulty: set[int] = field(init=False, default_factory=set)
    """Indices of the texts for which the request failed; none if it is not known which, or if it was for no text."""
    enqueued_at: float = field(default_factory=time.monotonic)
    started_at: float | None = None
    completed: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __post_init__(self) -> None:
        self.unfinished = len(self.texts)

    def durations(self) -> StageDurations:
        """How long it has spent in each stage so far."""
        now = time.monotonic()
        started = self.started_at or now
        return StageDurations(started - self.enqueued_at, now - started)


def resolve(request: PendingRequest[Result], error: OnecardError | None) -> None:
    """End a request, unless it has ended already.

    Args:
        request: the request.
        error: why it failed; None if it has all its results.
    """
    if request.completed.done():
        return
    if error:
        request.completed.set_exception(error)
    else:
        request.completed.set_result(None)
