"""Gets each text's result from the cache, from another request that is computing it, or from the model.

For each text of a request: look it up, join or start its computation, store the result. Needs the `encoder` extra.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from onecard.batching.batcher import Batcher
from onecard.batching.pending_request import StageDurations
from onecard.batching.queue import LANES, Lane
from onecard.cache.keys import CacheKind, Keyspace
from onecard.cache.metrics import CacheMetrics
from onecard.cache.serialization import CountedResult
from onecard.cache.tiers import TypedCache
from onecard.coalescing.batch_single_flight import BatchCall, BatchResults, BatchSingleFlight
from onecard.errors import DeadlineExceeded, InternalError, OnecardError, TooBusy, Unavailable
from onecard.inference.requests import InferenceRequest, Tokenization
from onecard.inference.tokenization import TokenizedText
from onecard.web.server_timing import Timing

Result = TypeVar("Result")
CacheStatus = Literal["hit", "miss", "partial", "coalesced", "bypass"]
"""Value of `x-cache`: hit, all results from the cache; miss, all computed; coalesced, all from computations of other
requests; partial, a mixture; bypass, the cache was not used."""


@dataclass(frozen=True)
class InferenceResult(Generic[Result]):
    """Results of one request, in the order of its inputs."""

    results: list[Result]
    tokens: int
    """Tokens in all inputs, as the model read them."""
    cut: list[bool]
    """Which inputs were over the window, so that the model read only a part."""
    cache_status: CacheStatus


@dataclass(frozen=True)
class ResultCache(Generic[Result]):
    """The cache of a model's results, with their keys."""

    kind: CacheKind
    cache: TypedCache[CountedResult[Result], CountedResult[Result]]
    keyspaces: Mapping[bool, Keyspace]
    """By `truncate`: a text over the window has a result with truncation and an error without."""
    metrics: CacheMetrics

    def keys(self, request: InferenceRequest) -> list[bytes]:
        """Make the cache keys of a request.

        Args:
            request: texts or token ids.

        Returns:
            One key for each input, in order.
        """
        keyspace = self.keyspaces[request.truncate]
        inputs: Any = request.inputs
        return keyspace.for_texts(inputs) if isinstance(inputs[0], str) else keyspace.for_token_ids(inputs)

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, CountedResult[Result]]:
        """Look up results.

        Args:
            keys: of the inputs.

        Returns:
            The cached results, by key; misses are left out.
        """
        values = await self.cache.get_many(keys)
        return {key: value for key, value in zip(keys, values, strict=True) if value is not None}


class CachedInference(Generic[Result]):
    """Results for requests. Created and used on one event loop."""

    def __init__(self, tokenization: Tokenization, batcher: Batcher[Result], cache: ResultCache[Result] | None) -> None:
        """Set what results are computed with.

        Args:
            tokenization: of the model.
            batcher: runs the model.
            cache: of its results; without one, each request computes all of its inputs.
        """
        self._tokenization = tokenization
        self._batcher = batcher
        self._cache = cache
        # A computation that fails may do so because of any of its texts, and those that others wait for may be well.
        caller_errors = (TooBusy, DeadlineExceeded, InternalError, Unavailable)
        # One per lane: an interactive request must not wait for a text that is queued behind other bulk texts. At
        # worst, a text is computed once in each lane.
        self._single_flights: dict[Lane, BatchSingleFlight[CountedResult[Result]]] = {
            lane: BatchSingleFlight(caller_errors) for lane in LANES
        }

    async def infer(self, request: InferenceRequest, timings: dict[str, Timing]) -> InferenceResult[Result]:
        """Get the result of each input.

        Args:
            request: validated, apart from its token ids.
            timings: gets the durations of the stages, for `server-timing`.

        Returns:
            The results and the cache status.

        Raises:
            InvalidRequest: a token id is not in the model's vocabulary, or a text has no tokens.
            InputTooLong: a text is over the window and must not be cut.
            TooBusy: the queue is too long to answer in time.
            DeadlineExceeded: not answered in time, or too large to be answered in time even on an idle device.
            InternalError: the engine failed, or gave an invalid result.
            Unavailable: a text does not fit into the device's memory, or the device is lost.
        """
        scheduling = request.scheduling
        async with self._batcher.time_limit(scheduling.lane, scheduling.timeout_seconds, request.deadline):
            return await self._infer(request, timings)

    async def _infer(self, request: InferenceRequest, timings: dict[str, Timing]) -> InferenceResult[Result]:
        self._tokenization.tokenizer.check_token_ids(request.inputs)
        if request.truncation is not None:
            texts = await self._tokenization.truncate(request, request.truncation)
            ids = [text.ids for text in texts]
            result = await self._infer(replace(request, inputs=ids, truncation=None), timings)
            return replace(result, cut=[text.cut or cut for text, cut in zip(texts, result.cut, strict=True)])
        if self._cache is None or not request.cache_policy.store:
            return await self._infer_uncached(request, timings)
        return await self._infer_cached(request, self._cache, timings)

    async def _infer_uncached(self, request: InferenceRequest, timings: dict[str, Timing]) -> InferenceResult[Result]:
        started = time.monotonic()
        texts = await self._tokenization.tokenize(request, range(len(request.inputs)))
        ids = [text.ids for text in texts]
        tokenize_seconds = time.monotonic() - started
        outcome = await self._batcher.submit(
            ids,
            lane=request.scheduling.lane,
            timeout_seconds=request.remaining_seconds,
            has_waited=request.scheduling.has_waited,
        )
        _record_timings(timings, tokenize_seconds, outcome.durations)
        return InferenceResult(outcome.results, sum(map(len, ids)), [text.cut for text in texts], "bypass")

    async def _infer_cached(
        self, request: InferenceRequest, cache: ResultCache[Result], timings: dict[str, Timing]
    ) -> InferenceResult[Result]:
        started = time.monotonic()
        keys = cache.keys(request)
        positions: dict[bytes, int] = {}
        for position, key in enumerate(keys):
            positions.setdefault(key, position)
        found = await cache.get_many(list(positions)) if request.cache_policy.read else {}
        lookup_ended = time.monotonic()
        hits = len(found)
        missing = {key: position for key, position in positions.items() if key not in found}
        coalesced = 0
        if missing:
            shared = await self._compute_missing(request, cache, missing, timings)
            found.update(zip(missing, shared.results, strict=True))
            coalesced = shared.coalesced
        computed = len(missing) - coalesced
        counts = f"hit={hits} miss={computed} coalesced={coalesced}"
        timings["cache"] = Timing((lookup_ended - started) * 1000, counts)
        values = [found[key] for key in keys]
        return InferenceResult(
            [value.result for value in values],
            sum(value.tokens for value in values),
            [value.cut for value in values],
            cache_status(hits, computed, coalesced),
        )

    async def _compute_missing(
        self,
        request: InferenceRequest,
        cache: ResultCache[Result],
        missing: Mapping[bytes, int],
        timings: dict[str, Timing],
    ) -> BatchResults[CountedResult[Result]]:
        """Results of the missing texts (position by key), computed by this request or by others."""
        started = time.monotonic()
        # Before joining computations: an invalid text is this request's error and is named by its position in it.
        texts = await self._tokenization.tokenize(request, list(missing.values()))
        tokenized_at = time.monotonic()
        lane = request.scheduling.lane
        job = _MissingTexts(self._batcher, cache, request, list(missing), texts)
        shared = await self._single_flights[lane].do(job.keys, job.compute)
        cache.metrics.coalesced(cache.kind, shared.coalesced)
        _record_timings(timings, tokenized_at - started, job.durations)
        return shared


class _MissingTexts(Generic[Result]):
    """The texts that a request did not find in the cache, and how to compute those that no other request computes."""

    def __init__(
        self,
        batcher: Batcher[Result],
        cache: ResultCache[Result],
        request: InferenceRequest,
        keys: Sequence[bytes],
        texts: Sequence[TokenizedText],
    ) -> None:
        """Set the texts that the request did not find."""
        self.keys = keys
        self.durations: StageDurations | None = None
        self._batcher = batcher
        self._cache = cache
        self._request = request
        self._texts = texts

    async def compute(self, call: BatchCall[CountedResult[Result]]) -> None:
        """Run the texts of a call, then store and deliver each result.

        The texts are accepted by this request's time limit, and queued without a deadline: other requests may come to
        wait for them, each within its own limit. The call withdraws texts that no caller waits for any more.

        Args:
            call: the texts that this request is to compute.

        Raises:
            OnecardError: a text failed, or the request was refused.
        """
        owned = call.indices
        position_of = {index: position for position, index in enumerate(owned)}

        def deliver(results: Sequence[tuple[int, Result]]) -> None:
            values = []
            for position, result in results:
                text = self._texts[owned[position]]
                values.append((owned[position], CountedResult(result, len(text.ids), text.cut)))
            self.durations = pending.durations()
            self._cache.cache.set_many((self.keys[index], value) for index, value in values)
            for index, value in values:
                call.deliver(index, value)

        def withdraw(indices: Collection[int]) -> Collection[int]:
            return [
                owned[position]
                for position in self._batcher.withdraw(pending, [position_of[index] for index in indices])
            ]

        pending = self._batcher.enqueue(
            [self._texts[index].ids for index in owned],
            lane=self._request.scheduling.lane,
            timeout_seconds=self._request.remaining_seconds,
            has_waited=self._request.scheduling.has_waited,
            deliver=deliver,
        )
        call.on_abandoned(withdraw)
        try:
            await self._batcher.wait(pending)
        except OnecardError as error:
            for position in pending.faulty:
                call.fail(owned[position], error)
            raise


def cache_status(hits: int, computed: int, coalesced: int) -> CacheStatus:
    """The cache status of a request, by counts of its distinct texts.

    Args:
        hits: from the cache.
        computed: by the model, for this request.
        coalesced: from other requests' computations.

    Returns:
        The status; `partial` if more than one count is above 0.
    """
    counts: dict[CacheStatus, int] = {"hit": hits, "miss": computed, "coalesced": coalesced}
    present = [status for status, count in counts.items() if count]
    return present[0] if len(present) == 1 else "partial"


def _record_timings(timings: dict[str, Timing], tokenize_seconds: float, durations: StageDurations | None) -> None:
    timings["tokenize"] = Timing(tokenize_seconds * 1000)
    if durations is not None:
        timings["queue"] = Timing(durations.queue_seconds * 1000)
        timings["inference"] = Timing(durations.inference_seconds * 1000)
