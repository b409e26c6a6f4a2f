"""Texts under way, one by one: a request computes those that nobody else is computing, and waits for the rest."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from onecard.coalescing.single_flight import FlightCancelled, TaskSet

T = TypeVar("T")

Withdraw = Callable[[Collection[int]], Collection[int]]
"""Takes texts out of the work, and says which of them will not be computed."""


@dataclass(eq=False)
class _Caller:
    """One caller, who waits for `missing` results."""

    pending: int = 0
    keys_to_retry: list[bytes] = field(default_factory=list)
    """Texts that another request could not compute on its own terms."""
    failure: Exception | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class _Entry(Generic[T]):
    key: bytes
    call: "BatchCall[T]"
    callers: set[_Caller] = field(default_factory=set)
    result: list[T] = field(default_factory=list)
    """Empty until there is one."""


class BatchCall(Generic[T]):
    """What one computation has to do: some texts of the request that began it, for whoever waits for them."""

    def __init__(self, flights: "BatchSingleFlight[T]", owner: _Caller) -> None:
        self._flights = flights
        self._owner = owner
        self._pending: dict[int, _Entry[T]] = {}
        self._withdraw: Withdraw = lambda indices: ()
        self._task: asyncio.Task[None] | None = None

    @property
    def indices(self) -> list[int]:
        """Positions, in the keys of the request, of the texts that have no result yet."""
        return list(self._pending)

    def on_abandoned(self, withdraw: Withdraw) -> None:
        """Call `withdraw` with the positions of texts that nobody waits for any more, while others are waited for."""
        self._withdraw = withdraw

    def deliver(self, index: int, result: T) -> None:
        """Hand out one text's result, to all who wait for it; in any order, as batches come in.

        Raises:
            KeyError: the text is not this claim's, or has its result, or was withdrawn.
        """
        text = self._pending.pop(index)
        self._flights._discard(text)
        text.result.append(result)
        for request in text.callers:
            request.pending -= 1
            if not request.pending:
                request.changed.set()

    def _cancel_abandoned(self) -> None:
        """Withdraw the texts that nobody waits for; cancel the work when that is all of them."""
        unwanted: Collection[int] = [index for index, text in self._pending.items() if not text.callers]
        if not unwanted or self._task is None:
            return
        if len(unwanted) == len(self._pending):
            self._task.cancel()
        else:
            unwanted = self._withdraw(unwanted)
        for index in unwanted:  # At once: whoever comes now and wants one of them gets a computation that lives.
            self._flights._discard(self._pending.pop(index))

    def _fail(self, failure: Exception, personal: bool) -> None:
        """End what has no result; others than the owner do not share a `personal` failure."""
        for text in self._pending.values():
            self._flights._discard(text)
            for request in text.callers:
                if personal and request is not self._owner:
                    request.keys_to_retry.append(text.key)
                else:
                    request.failure = failure
                request.changed.set()
        self._pending.clear()


@dataclass(frozen=True)
class BatchResults(Generic[T]):
    """Results in the order of the keys, and how many distinct keys another request computed."""

    results: list[T]
    coalesced: int


class BatchSingleFlight(Generic[T]):
    """Texts being computed, by key."""

    def __init__(self, personal: tuple[type[Exception], ...] = ()) -> None:
        """`personal` are failures that come of the terms of the request that computes, not of the texts."""
        self._entries: dict[bytes, _Entry[T]] = {}
        self._tasks = TaskSet()
        self._caller_errors = (*personal, FlightCancelled)

    def __len__(self) -> int:
        return len(self._entries)

    async def do(self, keys: Sequence[bytes], compute: Callable[[BatchCall[T]], Awaitable[None]]) -> BatchResults[T]:
        """A result for each key; equal keys are one text.

        `compute` gets the texts that nobody is computing yet, and delivers each. It runs in a task of its own: if this
        caller leaves, it goes on as long as anybody waits for any of its texts, and is cancelled when nobody does. It
        is called again, for the texts in question, when another request fails to compute them on its own terms.

        Raises:
            Abandoned: this request's own computation was cancelled from inside.
            Exception: whatever `compute` raises reaches all who wait for what it had not delivered, be it another
                request's, unless it is personal; RuntimeError if it ends with texts undelivered.
        """
        request = _Caller()
        texts: dict[bytes, _Entry[T]] = {}
        places: dict[bytes, int] = {}
        for index, key in enumerate(keys):
            places.setdefault(key, index)
        request.pending = len(places)
        wanted: Iterable[bytes] = places
        try:
            while request.pending:
                self._join(request, {key: places[key] for key in wanted}, texts, compute)
                await request.changed.wait()
                request.changed.clear()
                if request.failure is not None:
                    raise request.failure.with_traceback(None)  # Each raise would add to a traceback that all share.
                wanted, request.keys_to_retry = request.keys_to_retry, []
        finally:
            self._unsubscribe(request, {text.call for text in texts.values()}, texts)
        coalesced = sum(text.call._owner is not request for text in texts.values())
        return BatchResults([texts[key].result[0] for key in keys], coalesced)

    def _join(
        self,
        request: _Caller,
        places: dict[bytes, int],
        texts: dict[bytes, _Entry[T]],
        compute: Callable[[BatchCall[T]], Awaitable[None]],
    ) -> None:
        """Join the computations of the keys in `places`, and begin one for those that have none."""
        claim: BatchCall[T] = BatchCall(self, request)
        for key, index in places.items():
            text = texts[key] = self._entries.get(key) or self._add(key, index, claim)
            text.callers.add(request)
        if claim._pending:
            claim._task = self._tasks.start(self._run(claim, compute))

    def _add(self, key: bytes, index: int, claim: BatchCall[T]) -> _Entry[T]:
        text = self._entries[key] = claim._pending[index] = _Entry(key, claim)
        return text

    async def _run(self, claim: BatchCall[T], compute: Callable[[BatchCall[T]], Awaitable[None]]) -> None:
        failure: Exception = FlightCancelled()
        try:
            await compute(claim)
            failure = RuntimeError("the computation left texts out")
        except Exception as error:
            failure = error
        finally:
            claim._fail(failure, isinstance(failure, self._caller_errors))

    def _unsubscribe(self, request: _Caller, claims: set[BatchCall[T]], texts: dict[bytes, _Entry[T]]) -> None:
        for text in texts.values():
            text.callers.discard(request)
        for claim in claims:
            claim._cancel_abandoned()

    def _discard(self, text: _Entry[T]) -> None:
        if self._entries.get(text.key) is text:
            del self._entries[text.key]
