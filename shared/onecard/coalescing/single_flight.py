"""One computation for requests that are alike and under way at the same time.

`SingleFlight` for whole answers, `BatchSingleFlight` for the texts of a batch, `StreamBroadcast` for streams.
All keep two rules: whoever leaves disturbs nobody, and when the last one leaves, the work is cancelled; and a failure
that is personal, of who computes and not of what is computed, is nobody else's: those who shared go on without it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class FlightCancelled(Exception):
    """The computation was cancelled from inside, not by those who wait for it."""


class TaskSet:
    """Tasks that run on, whether or not anybody still holds them: asyncio itself does not keep them alive."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run `work`. A failure that nobody stays to hear of is not complained about."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._on_done)
        return task

    async def wait(self) -> None:
        """Wait for those that run."""
        if self._running:
            await asyncio.wait(self._running)

    def _on_done(self, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()


@dataclass(frozen=True)
class SharedResult(Generic[T]):
    """A result, and whether another request had begun to compute it."""

    result: T
    coalesced: bool


@dataclass(eq=False)
class _Flight(Generic[T]):
    task: "asyncio.Task[T]"
    waiters: int = 0


class SingleFlight(Generic[T]):
    """Computations under way, by key."""

    def __init__(self, personal: tuple[type[Exception], ...] = ()) -> None:
        """`personal` are failures of who began: the next of those who wait begins anew, and the others wait for it."""
        self._caller_errors = personal
        self._flights: dict[Hashable, _Flight[T]] = {}
        self._tasks = TaskSet()

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._flights

    async def do(self, key: Hashable, compute: Callable[[], Awaitable[T]]) -> SharedResult[T]:
        """Wait for the computation of `key`, which `compute` begins if nobody has.

        It runs in a task of its own, under the context of who began it. A result is shared, so nobody may change it.

        Raises:
            Abandoned: it was cancelled from inside. (A `CancelledError` would look as if the caller were.)
            Exception: whatever `compute` raises, in everyone who waits, unless it is personal.
        """
        while True:
            flight = self._flights.get(key)
            coalesced = flight is not None
            if flight is None:
                flight = self._start(key, compute)
            flight.waiters += 1
            try:
                await asyncio.wait([flight.task])
            finally:
                flight.waiters -= 1
                if not flight.waiters and not flight.task.done():
                    self._remove(key, flight)  # At once: whoever comes now gets a computation that lives.
                    flight.task.cancel()
            if flight.task.cancelled():
                raise FlightCancelled
            if not (coalesced and isinstance(flight.task.exception(), self._caller_errors)):
                return SharedResult(flight.task.result(), coalesced)

    def _start(self, key: Hashable, compute: Callable[[], Awaitable[T]]) -> _Flight[T]:
        async def run() -> T:
            return await compute()

        flight = _Flight(self._tasks.start(run()))
        self._flights[key] = flight
        flight.task.add_done_callback(lambda _: self._remove(key, flight))
        return flight

    def _remove(self, key: Hashable, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
