"""Texts under way, one by one: a request computes those that nobody else is computing, and waits for the rest."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from onecard.cache.flight import Abandoned, Tasks

T = TypeVar("T")


@dataclass(eq=False)
class _Request:
    """One caller, who waits for `missing` results."""

    done: "asyncio.Future[None]"
    missing: int = 0


@dataclass(eq=False)
class _Text(Generic[T]):
    key: bytes
    claim: "Claim[T]"
    waiting: set[_Request] = field(default_factory=set)
    result: list[T] = field(default_factory=list)
    """Empty until there is one."""


class Claim(Generic[T]):
    """What one computation has to do: some texts of the request that began it, for whoever waits for them."""

    def __init__(self, flights: "TextFlights[T]") -> None:
        self._flights = flights
        self._texts: dict[int, _Text[T]] = {}
        self._requests = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def indices(self) -> list[int]:
        """Positions, in the keys of the request, of the texts that have no result yet."""
        return list(self._texts)

    def wanted(self, index: int) -> bool:
        """Somebody still waits for this text: worth asking before device time is spent on it."""
        text = self._texts.get(index)
        return text is not None and bool(text.waiting)

    def deliver(self, index: int, result: T) -> None:
        """Hand out one text's result, to all who wait for it; in any order, as batches come in.

        Raises:
            KeyError: the text is not this claim's, or has its result.
        """
        text = self._texts.pop(index)
        self._flights._forget(text)
        text.result.append(result)
        for request in text.waiting:
            request.missing -= 1
            if not request.missing and not request.done.done():
                request.done.set_result(None)


@dataclass(frozen=True)
class Claimed(Generic[T]):
    """Results in the order of the keys, and how many distinct keys another request was computing."""

    results: list[T]
    coalesced: int


class TextFlights(Generic[T]):
    """Texts being computed, by key."""

    def __init__(self) -> None:
        self._texts: dict[bytes, _Text[T]] = {}
        self._tasks = Tasks()

    def __len__(self) -> int:
        return len(self._texts)

    async def claim_many(self, keys: Sequence[bytes], compute: Callable[[Claim[T]], Awaitable[None]]) -> Claimed[T]:
        """A result for each key; equal keys are one text.

        `compute` gets the texts that nobody is computing yet, and delivers each. It runs in a task of its own: if this
        caller leaves, it goes on as long as anybody waits for any of its texts, and is cancelled when nobody does.

        Raises:
            Abandoned: a computation that this request waits for was cancelled from inside.
            Exception: whatever `compute` raises reaches all who wait for what it had not delivered, be it another
                request's; RuntimeError if it ends with texts undelivered.
        """
        request = _Request(asyncio.get_running_loop().create_future())
        claim: Claim[T] = Claim(self)
        texts: dict[bytes, _Text[T]] = {}
        for index, key in enumerate(keys):
            if key not in texts:
                texts[key] = self._texts.get(key) or self._add(key, index, claim)
                texts[key].waiting.add(request)
        coalesced = len(texts) - len(claim._texts)
        request.missing = len(texts)
        claims = {text.claim for text in texts.values()}
        for joined in claims:
            joined._requests += 1
        if claim._texts:
            claim._task = self._tasks.begin(self._run(claim, compute))
        try:
            if texts:
                await request.done
        finally:
            self._leave(request, texts, claims)
        return Claimed([texts[key].result[0] for key in keys], coalesced)

    def _add(self, key: bytes, index: int, claim: Claim[T]) -> _Text[T]:
        text = self._texts[key] = claim._texts[index] = _Text(key, claim)
        return text

    async def _run(self, claim: Claim[T], compute: Callable[[Claim[T]], Awaitable[None]]) -> None:
        failure: Exception = Abandoned()
        try:
            await compute(claim)
            failure = RuntimeError("the computation left texts out")
        except Exception as error:
            failure = error
        finally:
            self._fail(claim, failure)

    def _fail(self, claim: Claim[T], failure: Exception) -> None:
        """End what has no result."""
        for text in claim._texts.values():
            self._forget(text)
            for request in text.waiting:
                if not request.done.done():
                    request.done.set_exception(failure)
        claim._texts.clear()

    def _leave(self, request: _Request, texts: dict[bytes, _Text[T]], claims: set[Claim[T]]) -> None:
        for text in texts.values():
            text.waiting.discard(request)
        for claim in claims:
            claim._requests -= 1
            if not claim._requests and claim._texts and claim._task is not None:
                for text in claim._texts.values():  # At once: whoever comes now gets a computation that lives.
                    self._forget(text)
                claim._task.cancel()

    def _forget(self, text: _Text[T]) -> None:
        if self._texts.get(text.key) is text:
            del self._texts[text.key]
