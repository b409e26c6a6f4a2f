"""Single flight for each text: a request computes the texts that no other one computes, and waits for the rest."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from onecard.coalescing.single_flight import FlightCancelled, TaskSet

T = TypeVar("T")

Withdraw = Callable[[Collection[int]], Collection[int]]
"""Takes the indices of unneeded texts, and returns those that will not be computed."""


@dataclass(eq=False)
class _Caller:
    """One caller of `do`."""

    pending: int = 0
    """Results it still waits for."""
    keys_to_retry: list[bytes] = field(default_factory=list)
    """Texts that another request failed to compute because of its own limits or its other texts."""
    failure: Exception | None = None
    """Raised by `do`, if set."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class _Entry(Generic[T]):
    key: bytes
    call: "BatchCall[T]"
    callers: set[_Caller] = field(default_factory=set)
    result: list[T] = field(default_factory=list)
    """Empty until the result is there."""


class BatchCall(Generic[T]):
    """One computation: some texts of the request that started it, for every caller that waits for them."""

    def __init__(self, flights: "BatchSingleFlight[T]", owner: _Caller) -> None:
        self._flights = flights
        self._owner = owner
        self._pending: dict[int, _Entry[T]] = {}
        self._withdraw: Withdraw = lambda indices: ()
        self._task: asyncio.Task[None] | None = None

    @property
    def indices(self) -> list[int]:
        """Positions, among the keys of the owning request, of the texts that have no result yet."""
        return list(self._pending)

    def on_abandoned(self, withdraw: Withdraw) -> None:
        """Set the callback for texts that no caller waits for any more, while other texts are still needed.

        Args:
            withdraw: gets their positions.
        """
        self._withdraw = withdraw

    def deliver(self, index: int, result: T) -> None:
        """Hand one text's result to all callers that wait for it. Texts may come in any order.

        Args:
            index: position of the text.
            result: shared by all callers, so nobody may change it.

        Raises:
            KeyError: the text is not part of this call, has its result already, or was withdrawn.
        """
        entry = self._pending.pop(index)
        self._flights._discard(entry)
        entry.result.append(result)
        for caller in entry.callers:
            caller.pending -= 1
            if not caller.pending:
                caller.changed.set()

    def fail(self, index: int, failure: Exception) -> None:
        """Fail all callers that wait for one text, because of that text. It ends no computation.

        Args:
            index: position of the text.
            failure: raised by `do`.

        Raises:
            KeyError: the text is not part of this call, has its result already, or was withdrawn.
        """
        entry = self._pending.pop(index)
        self._flights._discard(entry)
        for caller in entry.callers:
            caller.failure = failure
            caller.changed.set()

    def _cancel_abandoned(self) -> None:
        """Withdraw texts that no caller waits for; cancel the computation if these are all."""
        unwanted: Collection[int] = [index for index, entry in self._pending.items() if not entry.callers]
        if not unwanted or self._task is None:
            return
        if len(unwanted) == len(self._pending):
            self._task.cancel()
        else:
            unwanted = self._withdraw(unwanted)
        for index in unwanted:  # At once, so that a new caller does not join a computation that is being cancelled.
            self._flights._discard(self._pending.pop(index))

    def _fail(self, failure: Exception, is_caller_error: bool) -> None:
        """Fail the remaining texts. After a caller error only the owner fails; the other callers retry."""
        for entry in self._pending.values():
            self._flights._discard(entry)
            for caller in entry.callers:
                if is_caller_error and caller is not self._owner:
                    caller.keys_to_retry.append(entry.key)
                else:
                    caller.failure = failure
                caller.changed.set()
        self._pending.clear()


@dataclass(frozen=True)
class BatchResults(Generic[T]):
    """Results in the order of the keys, and how many distinct keys other requests computed."""

    results: list[T]
    coalesced: int


class BatchSingleFlight(Generic[T]):
    """Texts that are being computed, by key."""

    def __init__(self, caller_errors: tuple[type[Exception], ...] = ()) -> None:
        """Start with nothing in flight.

        Args:
            caller_errors: failures due to the request that computes, such as its deadline or others of its texts. They
                are not shared: the other callers compute the texts themselves. What is wrong with a text itself is
                for `BatchCall.fail`.
        """
        self._entries: dict[bytes, _Entry[T]] = {}
        self._tasks = TaskSet()
        self._caller_errors = (*caller_errors, FlightCancelled)

    def __len__(self) -> int:
        return len(self._entries)

    async def do(self, keys: Sequence[bytes], compute: Callable[[BatchCall[T]], Awaitable[None]]) -> BatchResults[T]:
        """Get a result for each key; equal keys are one text.

        `compute` runs in a task of its own. If its caller leaves, it continues as long as any caller waits for one of
        its texts, and is cancelled otherwise. It is called again, for the texts concerned, if another request fails
        with a caller error.

        Args:
            keys: of the texts, in order.
            compute: gets the texts that nobody is computing yet, and must deliver a result for each.

        Returns:
            The results in the order of `keys`.

        Raises:
            FlightCancelled: this request's own computation was cancelled from inside.
            RuntimeError: `compute` ended without delivering every text.
            Exception: whatever `compute` raises reaches all callers that still wait for its texts, unless it is a
                caller error of another request.
        """
        caller = _Caller()
        entries: dict[bytes, _Entry[T]] = {}
        index_of: dict[bytes, int] = {}
        for index, key in enumerate(keys):
            index_of.setdefault(key, index)
        caller.pending = len(index_of)
        wanted: Iterable[bytes] = index_of
        try:
            while caller.pending:
                self._join(caller, {key: index_of[key] for key in wanted}, entries, compute)
                await caller.changed.wait()
                caller.changed.clear()
                if caller.failure is not None:
                    # Callers share the exception, and each raise would extend its traceback.
                    raise caller.failure.with_traceback(None)
                wanted, caller.keys_to_retry = caller.keys_to_retry, []
        finally:
            self._unsubscribe(caller, {entry.call for entry in entries.values()}, entries)
        coalesced = sum(entry.call._owner is not caller for entry in entries.values())
        return BatchResults([entries[key].result[0] for key in keys], coalesced)

    def _join(
        self,
        caller: _Caller,
        index_of: dict[bytes, int],
        entries: dict[bytes, _Entry[T]],
        compute: Callable[[BatchCall[T]], Awaitable[None]],
    ) -> None:
        """Join the running computations of these keys, and start one for the keys that have none."""
        call: BatchCall[T] = BatchCall(self, caller)
        for key, index in index_of.items():
            entry = entries[key] = self._entries.get(key) or self._add(key, index, call)
            entry.callers.add(caller)
        if call._pending:
            call._task = self._tasks.start(self._run(call, compute))

    def _add(self, key: bytes, index: int, call: BatchCall[T]) -> _Entry[T]:
        entry = self._entries[key] = call._pending[index] = _Entry(key, call)
        return entry

    async def _run(self, call: BatchCall[T], compute: Callable[[BatchCall[T]], Awaitable[None]]) -> None:
        failure: Exception = FlightCancelled()
        try:
            await compute(call)
            failure = RuntimeError("the computation left texts out")
        except Exception as error:
            failure = error
        finally:
            call._fail(failure, isinstance(failure, self._caller_errors))

    def _unsubscribe(self, caller: _Caller, calls: set[BatchCall[T]], entries: dict[bytes, _Entry[T]]) -> None:
        for entry in entries.values():
            entry.callers.discard(caller)
        for call in calls:
            call._cancel_abandoned()

    def _discard(self, entry: _Entry[T]) -> None:
        if self._entries.get(entry.key) is entry:
            del self._entries[entry.key]
