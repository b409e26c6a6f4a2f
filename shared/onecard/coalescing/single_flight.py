"""Single flight: equal requests at the same time share one computation.

`SingleFlight` is for whole responses, `BatchSingleFlight` for the texts of a batch, `StreamBroadcast` for streams. All
follow two rules. A caller that leaves does not affect the others; when the last one leaves, the computation is
cancelled. A caller error, which is due to the request that computes and not to what it computes, is not shared: another
caller starts the computation again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class FlightCancelled(Exception):
    """The computation was cancelled from inside, not by its callers."""


class TaskSet:
    """Keeps references to running tasks, which asyncio itself does not."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run a coroutine in a task. asyncio does not report its exception as never retrieved.

        Args:
            work: the coroutine.

        Returns:
            The task.
        """
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._on_done)
        return task

    async def wait(self) -> None:
        """Wait until the running tasks have ended."""
        if self._running:
            await asyncio.wait(self._running)

    def _on_done(self, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()


@dataclass(frozen=True)
class SharedResult(Generic[T]):
    """A result, and whether another request had started its computation."""

    result: T
    coalesced: bool


@dataclass(eq=False)
class _Flight(Generic[T]):
    task: "asyncio.Task[T]"
    waiters: int = 0


class SingleFlight(Generic[T]):
    """Running computations by key."""

    def __init__(self, caller_errors: tuple[type[Exception], ...] = ()) -> None:
        """Start with nothing in flight.

        Args:
            caller_errors: failures due to the request that started the computation. They are not shared: the next
                waiting caller starts it again, and the others wait for that.
        """
        self._caller_errors = caller_errors
        self._flights: dict[Hashable, _Flight[T]] = {}
        self._tasks = TaskSet()

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._flights

    async def do(self, key: Hashable, compute: Callable[[], Awaitable[T]]) -> SharedResult[T]:
        """Wait for the computation of `key`, and start it if none is running.

        It runs in a task of its own, in the context of the request that started it.

        Args:
            key: equal for equal requests.
            compute: starts the computation.

        Returns:
            The result, which callers share, so nobody may change it.

        Raises:
            FlightCancelled: it was cancelled from inside. (A `CancelledError` would look as if the caller were.)
            Exception: whatever `compute` raises, in every caller, unless it is a caller error of another request.
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
                    self._remove(key, flight)  # At once, so that a new caller does not join a cancelled computation.
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
