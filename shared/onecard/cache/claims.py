"""Texts under way, one by one: a request computes those that nobody else is computing, and waits for the rest."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from onecard.cache.flight import Abandoned, Tasks

T = TypeVar("T")

Withdraw = Callable[[Collection[int]], Collection[int]]
"""Takes texts out of the work, and says which of them will not be computed."""


@dataclass(eq=False)
class _Request:
    """One caller, who waits for `missing` results."""

    missing: int = 0
    orphans: list[bytes] = field(default_factory=list)
    """Texts that another request could not compute on its own terms."""
    failure: Exception | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class _Text(Generic[T]):
    key: bytes
    claim: "Claim[T]"
    waiting: set[_Request] = field(default_factory=set)
    result: list[T] = field(default_factory=list)
    """Empty until there is one."""


class Claim(Generic[T]):
    """What one computation has to do: some texts of the request that began it, for whoever waits for them."""

    def __init__(self, flights: "TextFlights[T]", owner: _Request) -> None:
        self._flights = flights
        self._owner = owner
        self._texts: dict[int, _Text[T]] = {}
        self._withdraw: Withdraw = lambda indices: ()
        self._task: asyncio.Task[None] | None = None

    @property
    def indices(self) -> list[int]:
        """Positions, in the keys of the request, of the texts that have no result yet."""
        return list(self._texts)

    def on_unwanted(self, withdraw: Withdraw) -> None:
        """Call `withdraw` with the positions of texts that nobody waits for any more, while others are waited for."""
        self._withdraw = withdraw

    def deliver(self, index: int, result: T) -> None:
        """Hand out one text's result, to all who wait for it; in any order, as batches come in.

        Raises:
            KeyError: the text is not this claim's, or has its result, or was withdrawn.
        """
        text = self._texts.pop(index)
        self._flights._forget(text)
        text.result.append(result)
        for request in text.waiting:
            request.missing -= 1
            if not request.missing:
                request.news.set()

    def _drop_unwanted(self) -> None:
        """Withdraw the texts that nobody waits for; cancel the work when that is all of them."""
        unwanted: Collection[int] = [index for index, text in self._texts.items() if not text.waiting]
        if not unwanted or self._task is None:
            return
        if len(unwanted) == len(self._texts):
            self._task.cancel()
        else:
            unwanted = self._withdraw(unwanted)
        for index in unwanted:  # At once: whoever comes now and wants one of them gets a computation that lives.
            self._flights._forget(self._texts.pop(index))

    def _fail(self, failure: Exception, personal: bool) -> None:
        """End what has no result; others than the owner do not share a `personal` failure."""
        for text in self._texts.values():
            self._flights._forget(text)
            for request in text.waiting:
                if personal and request is not self._owner:
                    request.orphans.append(text.key)
                else:
                    request.failure = failure
                request.news.set()
        self._texts.clear()


@dataclass(frozen=True)
class Claimed(Generic[T]):
    """Results in the order of the keys, and how many distinct keys another request computed."""

    results: list[T]
    coalesced: int


class TextFlights(Generic[T]):
    """Texts being computed, by key."""

    def __init__(self, personal: tuple[type[Exception], ...] = ()) -> None:
        """`personal` are failures that come of the terms of the request that computes, not of the texts."""
        self._texts: dict[bytes, _Text[T]] = {}
        self._tasks = Tasks()
        self._personal = (*personal, Abandoned)

    def __len__(self) -> int:
        return len(self._texts)

    async def claim_many(self, keys: Sequence[bytes], compute: Callable[[Claim[T]], Awaitable[None]]) -> Claimed[T]:
        """A result for each key; equal keys are one text.

        `compute` gets the texts that nobody is computing yet, and delivers each. It runs in a task of its own: if this
        caller leaves, it goes on as long as anybody waits for any of its texts, and is cancelled when nobody does. It
        is called again, for the texts in question, when another request fails to compute them on its own terms.

        Raises:
            Abandoned: this request's own computation was cancelled from inside.
            Exception: whatever `compute` raises reaches all who wait for what it had not delivered, be it another
                request's, unless it is personal; RuntimeError if it ends with texts undelivered.
        """
        request = _Request()
        texts: dict[bytes, _Text[T]] = {}
        places: dict[bytes, int] = {}
        for index, key in enumerate(keys):
            places.setdefault(key, index)
        request.missing = len(places)
        wanted: Iterable[bytes] = places
        try:
            while request.missing:
                self._board(request, {key: places[key] for key in wanted}, texts, compute)
                await request.news.wait()
                request.news.clear()
                if request.failure is not None:
                    raise request.failure.with_traceback(None)  # Each raise would add to a traceback that all share.
                wanted, request.orphans = request.orphans, []
        finally:
            self._leave(request, {text.claim for text in texts.values()}, texts)
        coalesced = sum(text.claim._owner is not request for text in texts.values())
        return Claimed([texts[key].result[0] for key in keys], coalesced)

    def _board(
        self,
        request: _Request,
        places: dict[bytes, int],
        texts: dict[bytes, _Text[T]],
        compute: Callable[[Claim[T]], Awaitable[None]],
    ) -> None:
        """Join the computations of the keys in `places`, and begin one for those that have none."""
        claim: Claim[T] = Claim(self, request)
        for key, index in places.items():
            text = texts[key] = self._texts.get(key) or self._add(key, index, claim)
            text.waiting.add(request)
        if claim._texts:
            claim._task = self._tasks.begin(self._run(claim, compute))

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
            claim._fail(failure, isinstance(failure, self._personal))

    def _leave(self, request: _Request, claims: set[Claim[T]], texts: dict[bytes, _Text[T]]) -> None:
        for text in texts.values():
            text.waiting.discard(request)
        for claim in claims:
            claim._drop_unwanted()

    def _forget(self, text: _Text[T]) -> None:
        if self._texts.get(text.key) is text:
            del self._texts[text.key]
