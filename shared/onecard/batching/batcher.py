"""The async interface of the batching: requests submit token ids and wait for their results."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from onecard import logs
from onecard.batching.admission import WAITED_QUEUE_FACTOR, ThroughputEstimate, excess_wait_seconds, execution_seconds
from onecard.batching.batch_limit import AdaptiveBatchLimit, BatchLimit
from onecard.batching.device_thread import DeviceThread
from onecard.batching.engine import Engine, OutOfMemory
from onecard.batching.metrics import BatchMetrics
from onecard.batching.pending_request import BatchOutcome, Deliver, PendingRequest, resolve
from onecard.batching.queue import BULK_INTERVAL, LANES, Lane, RequestQueue, TokenIds
from onecard.batching.worker import BatchWorker, CompletedBatch
from onecard.errors import DeadlineExceeded, InternalError, OnecardError, TooBusy, Unavailable

Result = TypeVar("Result")

RETRY_AFTER_SECONDS = 15
"""`Retry-After` when the model is lost: a new process loads it in 5 to 15 s."""
_RESTARTING = "The model is being restarted. Try again shortly."

log = logs.logger()


@dataclass(frozen=True)
class BatcherConfig:
    """Limits and first estimates of a batcher."""

    max_batch: BatchLimit
    """Largest batch."""
    tokens_per_second: float
    """First estimate of the device's throughput, from warm-up."""
    queue_tokens: int
    """While more tokens than this wait in a lane, requests for it are refused; those that have waited as they were told
    to, from a quarter more on."""
    width_multiple: int = 1
    """The width of a batch's rows is a multiple of it."""


class Batcher(Generic[Result]):
    """Joins the texts of all waiting requests into batches for one engine, on the thread that loaded it.

    It is created, used and closed on one event loop. When the engine is lost, or given up because it hangs, the batcher
    ends: every request fails with 503, and `on_lost` is called once, so that the process can end and be restarted.
    """

    def __init__(
        self,
        engine: Engine[Result],
        config: BatcherConfig,
        *,
        thread: DeviceThread,
        metrics: BatchMetrics,
        on_lost: Callable[[], None],
        is_valid: Callable[[Result], bool] = lambda _: True,
    ) -> None:
        """Start the worker on `thread`.

        Args:
            engine: the loaded model.
            config: limits and first estimates.
            thread: the one that loaded the model.
            metrics: in the app's registry.
            on_lost: called once, on the event loop, when the device is lost.
            is_valid: whether a result may be sent; a request with an invalid result fails. By default all are valid.
        """
        self._thread = thread
        self._is_valid = is_valid
        self._config = config
        self._metrics = metrics
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._queue = RequestQueue(config.width_multiple)
        self._throughput = ThroughputEstimate(config.tokens_per_second)
        self._pending: set[PendingRequest[Result]] = set()
        self._is_lost = False
        batch_limit = AdaptiveBatchLimit(config.max_batch)
        self._worker = BatchWorker(
            engine,
            queue=self._queue,
            batch_limit=batch_limit,
            throughput=self._throughput,
            metrics=metrics,
            on_finished=lambda batch: self._call_on_loop(self._on_batch_finished, batch),
            on_lost=lambda error: self._call_on_loop(self._on_worker_lost, error),
        )
        metrics.set_sources(self._queue.tokens, batch_limit.limit.tokens)
        thread.run(self._worker.run)

    @property
    def alive(self) -> bool:
        """Whether the device can still run batches."""
        return not self._is_lost

    @property
    def ended_batches(self) -> int:
        """Number of batches that have ended, with or without results."""
        return self._worker.ended_batches

    async def submit(
        self, texts: Sequence[TokenIds], *, lane: Lane, timeout_seconds: float, has_waited: bool = False
    ) -> BatchOutcome[Result]:
        """Compute the result of each text. If the caller is cancelled, texts that are not scheduled yet are not run.

        Args:
            texts: token ids of each text.
            lane: where they queue.
            timeout_seconds: longest wait for all results.
            has_waited: as for `refusal`.

        Returns:
            The results in the order of `texts`, and how long they took.

        Raises:
            TooBusy: the queue is too long to answer in time; the error says when to retry.
            DeadlineExceeded: not answered in time, or too large to be answered in time even on an idle device.
            InternalError: the engine failed on a batch with one of the texts, or gave an invalid result.
            Unavailable: a single text does not fit into the device's memory, or the device is lost.
        """
        results: dict[int, Result] = {}
        deadline = time.monotonic() + timeout_seconds
        request = self.enqueue(
            texts,
            lane=lane,
            timeout_seconds=timeout_seconds,
            has_waited=has_waited,
            deadline=deadline,
            deliver=results.update,
        )
        async with self.time_limit(lane, timeout_seconds, deadline):
            await self.wait(request)
        return BatchOutcome([results[index] for index in range(len(texts))], request.durations())

    def enqueue(
        self,
        texts: Sequence[TokenIds],
        *,
        lane: Lane,
        timeout_seconds: float,
        deliver: Deliver[Result],
        has_waited: bool = False,
        deadline: float = math.inf,
    ) -> PendingRequest[Result]:
        """Queue texts without waiting. Call `wait` right afterwards.

        Args:
            texts: token ids of each text.
            lane: where they queue.
            timeout_seconds: the time limit that decides whether they are accepted.
            deliver: called on the event loop with results as batches end.
            has_waited: as for `refusal`.
            deadline: time on `time.monotonic` after which they are no longer started; by default there is none.

        Returns:
            The request, to pass to `wait` and `withdraw`.

        Raises:
            TooBusy: the queue is too long to answer in time.
            DeadlineExceeded: too large to be answered in time even on an idle device.
            Unavailable: the device is lost.
        """
        self.check_capacity(lane, sum(map(len, texts)), timeout_seconds, has_waited=has_waited)
        return self._put(PendingRequest(texts, lane, deadline, deliver=deliver))

    def _put(self, request: PendingRequest[Result]) -> PendingRequest[Result]:
        self._pending.add(request)
        with self._worker.lock:
            self._queue.put(request)
            self._worker.lock.notify()
        return request

    async def wait(self, request: PendingRequest[Result]) -> None:
        """Wait until all results are delivered. If the caller is cancelled, texts not scheduled yet are not run.

        Args:
            request: from `enqueue`.

        Raises:
            InternalError: the engine failed on a batch with one of the texts, or gave an invalid result.
            Unavailable: a single text does not fit into the device's memory, or the device is lost.
        """
        await self._complete(request)
        self._metrics.observe_queue_seconds(request.lane, request.durations().queue_seconds)

    async def _complete(self, request: PendingRequest[Result]) -> None:
        try:
            await request.completed
        finally:
            self._pending.discard(request)
            with self._worker.lock:
                self._queue.drop(request)

    async def compute_canary(self, texts: Sequence[TokenIds]) -> list[Result]:
        """Compute texts that are no traffic: past admission control, and without the metrics of requests.

        Args:
            texts: token ids of each text.

        Returns:
            Their results, in order.

        Raises:
            InternalError: the engine failed on them, or gave an invalid result.
            Unavailable: they do not fit into the device's memory, or the device is lost.
        """
        if self._is_lost:
            raise Unavailable(_RESTARTING, retry_after=RETRY_AFTER_SECONDS)
        results: dict[int, Result] = {}
        await self._complete(self._put(PendingRequest(texts, "interactive", math.inf, deliver=results.update)))
        return [results[index] for index in range(len(texts))]

    def withdraw(self, request: PendingRequest[Result], indices: Collection[int]) -> Collection[int]:
        """Take texts out of a request whose results nobody needs any more.

        Args:
            request: from `enqueue`.
            indices: of its texts.

        Returns:
            The indices of texts that will not run; the others are scheduled already.
        """
        with self._worker.lock:
            withdrawn = self._queue.withdraw(request, indices)
        request.unfinished -= len(withdrawn)
        if not request.unfinished:
            resolve(request, None)
        return withdrawn

    @asynccontextmanager
    async def time_limit(self, lane: Lane, timeout_seconds: float, deadline: float) -> AsyncIterator[None]:
        """Limit how long a request waits for the code in this block.

        Args:
            lane: for the metrics.
            timeout_seconds: the request's time limit, for the message.
            deadline: time on `time.monotonic` at which it is over.

        Yields:
            Nothing.

        Raises:
            DeadlineExceeded: the block took longer.
        """
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                yield
        except TimeoutError:
            self._metrics.record_timeout(lane)
            raise DeadlineExceeded(
                f"No answer within {round(timeout_seconds, 1):g} s. "
                "Send fewer or shorter inputs a request, or try again later."
            ) from None

    def check_capacity(self, lane: Lane, tokens: int, timeout_seconds: float, *, has_waited: bool = False) -> None:
        """Refuse a request that could not be answered in time. Cheap enough to call before a text is tokenised.

        Args:
            lane: where it would queue.
            tokens: in all its texts.
            timeout_seconds: its time limit.
            has_waited: as for `refusal`.

        Raises:
            TooBusy: the queue is too long to answer in time.
            DeadlineExceeded: too large to be answered in time even on an idle device.
            Unavailable: the device is lost.
        """
        if (refusal := self.refusal(lane, tokens, timeout_seconds, has_waited=has_waited)) is None:
            return
        if isinstance(refusal, TooBusy):
            self._metrics.record_refusal(lane)
        raise refusal

    def refusal(
        self, lane: Lane, tokens: int, timeout_seconds: float, *, has_waited: bool = False
    ) -> OnecardError | None:
        """What `check_capacity` would raise; it is not counted.

        Args:
            lane: where the request would queue.
            tokens: in all its texts.
            timeout_seconds: its time limit.
            has_waited: whether it was refused earlier and comes again after the time that it was told. It may then
                wait longer, and finds room that newcomers cannot take.

        Returns:
            The error; None if the request would be accepted.
        """
        if self._is_lost:
            return Unavailable(_RESTARTING, retry_after=RETRY_AFTER_SECONDS)
        with self._worker.lock:
            ahead_tokens = self._tokens_ahead(lane)
            tokens_per_second = self._throughput.tokens_per_second
        idle_seconds = execution_seconds(tokens, tokens_per_second)
        if idle_seconds > timeout_seconds:
            return DeadlineExceeded(
                f"These texts need about {idle_seconds:.0f} s, and the time limit is {round(timeout_seconds, 1):g} s. "
                "Send fewer or shorter inputs a request."
            )
        excess = excess_wait_seconds(
            ahead_tokens=ahead_tokens,
            own_tokens=tokens,
            tokens_per_second=tokens_per_second,
            timeout_seconds=timeout_seconds,
            has_waited=has_waited,
        )
        queue_tokens = self._config.queue_tokens * (WAITED_QUEUE_FACTOR if has_waited else 1)
        excess = max(excess, (self._queue.tokens(lane) - queue_tokens) / tokens_per_second)
        if excess <= 0:
            return None
        return TooBusy("Too many texts are waiting. Try again after the time in Retry-After.", retry_after=excess)

    def _tokens_ahead(self, lane: Lane) -> int:
        """Tokens that will run before those of a new request in this lane."""
        waiting = {each: self._queue.tokens(each) for each in LANES}
        if lane == "bulk":
            return self._worker.running_tokens + sum(waiting.values())
        bulk_meanwhile = min(waiting["bulk"], waiting["interactive"] // (BULK_INTERVAL - 1))
        return self._worker.running_tokens + waiting["interactive"] + bulk_meanwhile

    def _call_on_loop(self, function: Callable[..., None], argument: object) -> None:
        """Call a function on the event loop, from the device thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, argument)

    def _on_batch_finished(self, completed: CompletedBatch[Result]) -> None:
        results_by_request: dict[PendingRequest[Result], list[tuple[int, Result]]] = {}
        failures: dict[PendingRequest[Result], OnecardError] = {}
        items = completed.batch.items
        valid = [False] * len(items) if completed.error else list(map(self._is_valid, completed.results))
        if not completed.error and not all(valid):
            log.error("model gave results that are not finite", texts=len(valid), invalid=valid.count(False))
        for position, item in enumerate(items):
            request = item.request
            assert isinstance(request, PendingRequest)  # noqa: S101  Nothing else is ever put into the queue.
            request.started_at = request.started_at or completed.started
            if valid[position]:
                results_by_request.setdefault(request, []).append((item.index, completed.results[position]))
                continue
            failures[request] = _client_error(completed.error)
            if not completed.error or len(items) == 1:  # Of an error, any text of the batch may be the cause.
                request.faulty.add(item.index)
        # Before failures: other requests may wait for results of a request that fails.
        for request, results in results_by_request.items():
            if not request.completed.done():
                self._deliver(request, results)
        for request, error in failures.items():
            resolve(request, error)

    def _deliver(self, request: PendingRequest[Result], results: Sequence[tuple[int, Result]]) -> None:
        try:
            request.deliver(results)
        except Exception:  # A bug in one receiver must not cost the other requests of the batch their results.
            log.exception("result delivery failed")
            resolve(request, InternalError("The server failed on this request."))
            return
        request.unfinished -= len(results)
        if not request.unfinished:
            resolve(request, None)

    def _on_worker_lost(self, error: BaseException) -> None:
        log.critical("model lost", exc_info=error)
        self.give_up()

    def give_up(self) -> None:
        """Fail all requests, because the model is lost or hangs; accept no others, and call `on_lost`."""
        if self._is_lost:
            return
        self._is_lost = True
        for request in list(self._pending):
            resolve(
                request,
                Unavailable("The model was lost while it computed. Try again.", retry_after=RETRY_AFTER_SECONDS),
            )
        self._on_lost()

    async def close(self, seconds: float = 5.0) -> None:
        """Let the batches in flight end, and run no others.

        Args:
            seconds: longest wait; a hanging device must not keep the process.
        """
        self._worker.stop()
        await asyncio.to_thread(self._thread.stop, seconds)


def _client_error(error: Exception | None) -> OnecardError:
    """What a client hears of a batch's error; None for a result that is not valid."""
    if error is None:
        return InternalError("The model gave no numbers for one of these texts.")
    if isinstance(error, OutOfMemory):
        return Unavailable(
            "One of the texts does not fit the device's memory now. Shorten it, or try again.", retry_after=5
        )
    return InternalError("The model failed on this request.")
