"""Where a result comes from: the cache, a request that is computing it already, or the model.

For each text of a request: look up, claim what nobody computes yet, submit, store. Needs the `encoder` extra.
"""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from onecard.batching.batcher import Batcher, StageDurations
from onecard.batching.queue import LANES, Lane, TokenIds
from onecard.cache.directives import CachePolicy
from onecard.cache.keys import CacheKind, Keyspace
from onecard.cache.metrics import CacheMetrics
from onecard.cache.serialization import CountedResult
from onecard.cache.tiers import TypedCache
from onecard.coalescing.batch_single_flight import BatchCall, BatchResults, BatchSingleFlight
from onecard.errors import DeadlineExceeded, TooBusy
from onecard.inference.scheduling import SchedulingParams
from onecard.inference.tokenization import TextTokenizer
from onecard.web.server_timing import Timing

Result = TypeVar("Result")
Inputs = Sequence[str] | Sequence[Sequence[int]]
"""Texts, or token ids that the client made itself."""

INLINE_CHARACTERS = 2_000
"""Shorter inputs are tokenised on the event loop. Measured: 0.01 ms for one review, 1.4 ms for as many as this; the way
to a thread and back takes 0.1 ms, on an idle loop."""

CacheStatus = Literal["hit", "miss", "partial", "coalesced", "bypass"]
"""What the cache did for a request, as `x-cache` says it: hit, all from the cache; miss, all computed; coalesced, all
from computations of other requests; partial, several of these; bypass, it was not asked."""


@dataclass(frozen=True)
class InferenceResult(Generic[Result]):
    """Results of one request, in the order of its inputs."""

    results: list[Result]
    tokens: int
    """Tokens that the model read."""
    cache_status: CacheStatus


@dataclass(frozen=True)
class InferenceRequest:
    """What is asked, checked."""

    inputs: Inputs
    truncate: bool
    scheduling: SchedulingParams
    cache_policy: CachePolicy


class Tokenization:
    """Inputs → token ids, without holding up the event loop."""

    def __init__(self, reader: TextTokenizer, batcher: Batcher[Any]) -> None:
        self.tokenizer = reader
        self._batcher = batcher
        self._thread_free = asyncio.Semaphore(1)
        """Held while a thread tokenises: the tokenizer uses several cores itself, and they are the model's."""

    async def tokenize(self, query: InferenceRequest, places: Sequence[int]) -> list[list[int]]:
        """Token ids of the inputs at `places`.

        Raises:
            InputTooLong: one is over the window and may not be cut.
            TooBusy, DeadlineExceeded, Unavailable: as `Batcher.check_capacity`.
        """
        inputs: Any = [query.inputs[place] for place in places]
        if not inputs or not isinstance(inputs[0], str):
            return self.tokenizer.truncate(inputs, truncate=query.truncate, places=places)
        if sum(map(len, inputs)) <= INLINE_CHARACTERS:
            return self.tokenizer.tokenize(inputs, truncate=query.truncate, places=places)
        async with self._thread_free:
            # One that would be refused afterwards is refused now, before it costs the tokenizer's time.
            self._batcher.check_capacity(query.scheduling.lane, len(inputs), query.scheduling.timeout_seconds)
            return await asyncio.to_thread(self.tokenizer.tokenize, inputs, truncate=query.truncate, places=places)


@dataclass(frozen=True)
class ResultCache(Generic[Result]):
    """Where a model's results are kept, and under which names."""

    kind: CacheKind
    cache: TypedCache[CountedResult[Result], CountedResult[Result]]
    keyspaces: Mapping[bool, Keyspace]
    """With `truncate`, and without: a text over the window has an answer in one and none in the other."""
    metrics: CacheMetrics

    def keys(self, query: InferenceRequest) -> list[bytes]:
        """The key of each input."""
        keyspace = self.keyspaces[query.truncate]
        inputs: Any = query.inputs
        return keyspace.for_texts(inputs) if isinstance(inputs[0], str) else keyspace.for_token_ids(inputs)

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, CountedResult[Result]]:
        """What is kept under these keys."""
        values = await self.cache.get_many(keys)
        return {key: value for key, value in zip(keys, values, strict=True) if value is not None}


class CachedInference(Generic[Result]):
    """Results for requests. Made and used on one event loop."""

    def __init__(self, reading: Tokenization, batcher: Batcher[Result], shelf: ResultCache[Result] | None) -> None:
        """Without a shelf, each request computes all of its inputs."""
        self._tokenization = reading
        self._batcher = batcher
        self._cache = shelf
        # One for each lane: an interactive request must not wait for a text that is queued behind the bulk of others.
        # At worst, a text is computed once in each.
        self._single_flights: dict[Lane, BatchSingleFlight[CountedResult[Result]]] = {
            lane: BatchSingleFlight(personal=(TooBusy, DeadlineExceeded)) for lane in LANES
        }

    async def infer(self, query: InferenceRequest, timings: dict[str, Timing]) -> InferenceResult[Result]:
        """The result of each input; adds to `timings` where the time went.

        Raises:
            InvalidRequest, InputTooLong: a token id that the model does not know; a text over the window.
            TooBusy, DeadlineExceeded, InternalError, Unavailable: as `Batcher.submit`.
        """
        self._tokenization.tokenizer.check_token_ids(query.inputs)
        if self._cache is None or not query.cache_policy.store:
            return await self._infer_uncached(query, timings)
        return await self._infer_cached(query, self._cache, timings)

    async def _infer_uncached(self, query: InferenceRequest, timings: dict[str, Timing]) -> InferenceResult[Result]:
        started = time.monotonic()
        ids = await self._tokenization.tokenize(query, range(len(query.inputs)))
        read = time.monotonic() - started
        left = max(0.0, query.scheduling.timeout_seconds - read)
        outcome = await self._batcher.submit(ids, lane=query.scheduling.lane, timeout_seconds=left)
        _record_timings(timings, read, outcome.durations)
        return InferenceResult(outcome.results, sum(map(len, ids)), "bypass")

    async def _infer_cached(
        self, query: InferenceRequest, shelf: ResultCache[Result], timings: dict[str, Timing]
    ) -> InferenceResult[Result]:
        started = time.monotonic()
        keys = shelf.keys(query)
        places: dict[bytes, int] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, place)
        found = await shelf.get_many(list(places)) if query.cache_policy.read else {}
        looked_up = time.monotonic()
        hits = len(found)
        missing = {key: place for key, place in places.items() if key not in found}
        coalesced = 0
        if missing:
            claimed = await self._compute_missing(
                query, shelf, missing, started + query.scheduling.timeout_seconds, timings
            )
            found.update(zip(missing, claimed.results, strict=True))
            coalesced = claimed.coalesced
        computed = len(missing) - coalesced
        counts = f"hit={hits} miss={computed} coalesced={coalesced}"
        timings["cache"] = Timing((looked_up - started) * 1000, counts)
        results = [found[key].result for key in keys]
        return InferenceResult(results, sum(found[key].tokens for key in keys), cache_status(hits, computed, coalesced))

    async def _compute_missing(
        self,
        query: InferenceRequest,
        shelf: ResultCache[Result],
        missing: Mapping[bytes, int],
        deadline: float,
        timings: dict[str, Timing],
    ) -> BatchResults[CountedResult[Result]]:
        """Results of the texts with these keys and places, by this request or by others."""
        started = time.monotonic()
        # Before they are claimed: a text that is wrong is this request's error, and named by its place in it.
        ids = await self._tokenization.tokenize(query, list(missing.values()))
        read = time.monotonic()
        lane = query.scheduling.lane
        work = _MissingTexts(self._batcher, shelf, lane, deadline, list(missing), ids)
        async with self._batcher.time_limit(lane, max(0.0, deadline - read)):
            claimed = await self._single_flights[lane].do(work.keys, work.compute)
        shelf.metrics.coalesced(shelf.kind, claimed.coalesced)
        _record_timings(timings, read - started, work.durations)
        return claimed


class _MissingTexts(Generic[Result]):
    """The texts that a request found nowhere, and how it computes those that nobody else does."""

    def __init__(
        self,
        batcher: Batcher[Result],
        shelf: ResultCache[Result],
        lane: Lane,
        deadline: float,
        keys: Sequence[bytes],
        ids: Sequence[TokenIds],
    ) -> None:
        """`deadline` is the second on `time.monotonic` up to which this request waits."""
        self.keys = keys
        self.durations: StageDurations | None = None
        self._batcher = batcher
        self._cache = shelf
        self._lane = lane
        self._deadline = deadline
        self._ids = ids

    async def compute(self, claim: BatchCall[CountedResult[Result]]) -> None:
        """Run the claimed texts, store and deliver each result.

        They are let in by this request's time limit, and queued without one: others may come to wait for them, each
        within its own. Who waits no longer leaves the claim, which withdraws what nobody wants.
        """
        mine = claim.indices
        at = {index: place for place, index in enumerate(mine)}

        def deliver(results: Sequence[tuple[int, Result]]) -> None:
            values = [(mine[place], CountedResult(result, len(self._ids[mine[place]]))) for place, result in results]
            self.durations = job.durations()
            self._cache.cache.set_many((self.keys[index], value) for index, value in values)
            for index, value in values:
                claim.deliver(index, value)

        def withdraw(indices: Collection[int]) -> Collection[int]:
            return [mine[place] for place in self._batcher.withdraw(job, [at[index] for index in indices])]

        left = max(0.0, self._deadline - time.monotonic())
        texts = [self._ids[index] for index in mine]
        job = self._batcher.enqueue(texts, lane=self._lane, timeout_seconds=left, deliver=deliver)
        claim.on_abandoned(withdraw)
        await self._batcher.wait(job)


def cache_status(hits: int, computed: int, coalesced: int) -> CacheStatus:
    """The status of a request with so many distinct texts of each sort, one at least."""
    sorts: dict[CacheStatus, int] = {"hit": hits, "miss": computed, "coalesced": coalesced}
    some = [status for status, count in sorts.items() if count]
    return some[0] if len(some) == 1 else "partial"


def _record_timings(timings: dict[str, Timing], reading_seconds: float, spans: StageDurations | None) -> None:
    timings["tokenize"] = Timing(reading_seconds * 1000)
    if spans is not None:
        timings["queue"] = Timing(spans.queue_seconds * 1000)
        timings["inference"] = Timing(spans.inference_seconds * 1000)
