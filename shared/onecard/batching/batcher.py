"""The async shell: requests hand in token ids and wait for results."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from onecard import logs
from onecard.batching.admission import ThroughputEstimate, excess_wait_seconds, execution_seconds
from onecard.batching.batch_limit import AdaptiveBatchLimit, BatchLimit
from onecard.batching.device_thread import DeviceThread
from onecard.batching.engine import Engine, OutOfMemory
from onecard.batching.metrics import BatchMetrics
from onecard.batching.queue import BULK_INTERVAL, LANES, Lane, QueuedRequest, RequestQueue, TokenIds
from onecard.batching.worker import BatchWorker, CompletedBatch
from onecard.errors import DeadlineExceeded, InternalError, OnecardError, TooBusy, Unavailable

Result = TypeVar("Result")

RETRY_AFTER_SECONDS = 15
"""What clients are told to wait when the model is lost: a new process loads it in 5 to 15 s."""

log = logs.logger()


@dataclass(frozen=True)
class BatcherConfig:
    """What a batcher keeps to."""

    max_batch: BatchLimit
    """Largest batch."""
    tokens_per_second: float
    """First estimate of the device's throughput, from warming up."""
    queue_tokens: int
    """While more tokens wait in a lane, requests for it are refused."""
    hang_timeout_seconds: float
    """A batch that takes longer is taken for lost, and the device with it."""
    width_multiple: int = 1
    """What the width of a batch's rows is a multiple of."""


@dataclass(frozen=True)
class StageDurations:
    """Where the time of texts went."""

    queue_seconds: float
    """From handing in to the first text on the device."""
    inference_seconds: float
    """From there to the last result."""


@dataclass(frozen=True)
class BatchOutcome(Generic[Result]):
    """What became of a request."""

    results: list[Result]
    """In the order of its texts."""
    durations: StageDurations


Deliver = Callable[[Sequence[tuple[int, Result]]], None]
"""Takes results as batches end, with the indices of their texts."""


@dataclass(eq=False)
class PendingRequest(QueuedRequest, Generic[Result]):
    """Texts that were accepted. For its batcher to look into."""

    deliver: Deliver[Result] = field(kw_only=True)
    unfinished: int = field(init=False)
    """Texts without a result."""
    enqueued_at: float = field(default_factory=time.monotonic)
    started_at: float | None = None
    completed: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __post_init__(self) -> None:
        self.unfinished = len(self.texts)

    def durations(self) -> StageDurations:
        """Where its time went until now."""
        now = time.monotonic()
        begun = self.started_at or now
        return StageDurations(begun - self.enqueued_at, now - begun)


class Batcher(Generic[Result]):
    """Joins the texts of all waiting requests into batches for one engine, on the thread that loaded it.

    Made, used and closed on one event loop. An engine that hangs or is lost ends the batcher: every request is
    answered with 503, and `on_lost` is called, once, so that the process can end and be started anew.
    """

    def __init__(
        self,
        engine: Engine[Result],
        bounds: BatcherConfig,
        *,
        thread: DeviceThread,
        metrics: BatchMetrics,
        on_lost: Callable[[], None],
        sound: Callable[[Result], bool] = lambda _: True,
    ) -> None:
        """`sound` tells whether a result is one to answer with; who asked for one that is not gets an error."""
        self._thread = thread
        self._is_valid = sound
        self.last_batch_invalid = False
        """The last batch that ended had no sound result."""
        self._config = bounds
        self._metrics = metrics
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._queue = RequestQueue(bounds.width_multiple)
        self._throughput = ThroughputEstimate(bounds.tokens_per_second)
        self._pending: set[PendingRequest[Result]] = set()
        self._is_lost = False
        budget = AdaptiveBatchLimit(bounds.max_batch)
        self._worker = BatchWorker(
            engine,
            queue=self._queue,
            budget=budget,
            throughput=self._throughput,
            metrics=metrics,
            deliver=lambda done: self._call_on_loop(self._on_batch_finished, done),
            lost=lambda error: self._call_on_loop(self._mark_lost, error),
        )
        metrics.set_sources(self._queue.tokens, budget.limit.tokens)
        thread.run(self._worker.run)
        self._watchdog = asyncio.create_task(self._watch_for_hang())

    @property
    def alive(self) -> bool:
        """Whether batches can be run."""
        return not self._is_lost

    async def submit(self, texts: Sequence[TokenIds], *, lane: Lane, timeout_seconds: float) -> BatchOutcome[Result]:
        """The result of each text. When the caller is cancelled, what has not begun is not run.

        Raises:
            TooBusy: too much waits for an answer in time; the error says when to come back.
            DeadlineExceeded: not answered in time; or not accepted, since it could not be even on an idle device.
            InternalError: the engine failed on a batch with one of the texts.
            Unavailable: a single text does not fit the device's memory, or the device is lost.
        """
        results: dict[int, Result] = {}
        deadline = time.monotonic() + timeout_seconds
        job = self.enqueue(texts, lane=lane, timeout_seconds=timeout_seconds, deadline=deadline, deliver=results.update)
        async with self.time_limit(lane, timeout_seconds):
            await self.wait(job)
        return BatchOutcome([results[index] for index in range(len(texts))], job.durations())

    def enqueue(
        self,
        texts: Sequence[TokenIds],
        *,
        lane: Lane,
        timeout_seconds: float,
        deliver: Deliver[Result],
        deadline: float = math.inf,
    ) -> PendingRequest[Result]:
        """Queue texts, for `finish` to wait for at once.

        Args:
            timeout_seconds: the time limit by which they are let in or not.
            deadline: second on `time.monotonic` after which they are not begun; by default they always are.

        Raises:
            TooBusy, DeadlineExceeded, Unavailable: not let in, as in `submit`.
        """
        self.check_capacity(lane, sum(map(len, texts)), timeout_seconds)
        job: PendingRequest[Result] = PendingRequest(texts, lane, deadline, deliver=deliver)
        self._pending.add(job)
        with self._worker.lock:
            self._queue.put(job)
            self._worker.lock.notify()
        return job

    async def wait(self, job: PendingRequest[Result]) -> None:
        """Wait until all texts of a job are delivered. When the caller is cancelled, what has not begun is not run.

        Raises:
            InternalError, Unavailable: as in `submit`.
        """
        try:
            await job.completed
        finally:
            self._pending.discard(job)
            with self._worker.lock:
                self._queue.drop(job)
        self._metrics.observe_queue_seconds(job.lane, job.durations().queue_seconds)

    def withdraw(self, job: PendingRequest[Result], indices: Collection[int]) -> Collection[int]:
        """Take texts out of a job; returns those that will not be run, since they have not begun."""
        with self._worker.lock:
            withdrawn = self._queue.withdraw(job, indices)
        job.unfinished -= len(withdrawn)
        if not job.unfinished:
            _resolve(job, None)
        return withdrawn

    @asynccontextmanager
    async def time_limit(self, lane: Lane, seconds: float) -> AsyncIterator[None]:
        """How long a request waits for what is in this block.

        Raises:
            DeadlineExceeded: longer than that.
        """
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            self._metrics.record_timeout(lane)
            raise DeadlineExceeded(
                f"No answer within {seconds:g} s. Send fewer or shorter inputs a request, or try again later."
            ) from None

    def check_capacity(self, lane: Lane, tokens: int, timeout_seconds: float) -> None:
        """Refuse what could not be answered in time; cheap, so that it can be asked before a text is even read.

        Raises:
            TooBusy, DeadlineExceeded, Unavailable: as in `submit`.
        """
        if self._is_lost:
            raise Unavailable("The model is being restarted. Try again shortly.", retry_after=RETRY_AFTER_SECONDS)
        with self._worker.lock:
            ahead = self._tokens_ahead(lane)
            rate = self._throughput.tokens_per_second
        alone = execution_seconds(tokens, rate)
        if alone > timeout_seconds:
            raise DeadlineExceeded(
                f"These texts need about {alone:.0f} s, and the time limit is {timeout_seconds:g} s. "
                "Send fewer or shorter inputs a request."
            )
        over = excess_wait_seconds(
            ahead_tokens=ahead, own_tokens=tokens, tokens_per_second=rate, patience_seconds=timeout_seconds
        )
        over = max(over, (self._queue.tokens(lane) - self._config.queue_tokens) / rate)
        if over > 0:
            self._metrics.record_refusal(lane)
            raise TooBusy("Too many texts are waiting. Try again after the time in Retry-After.", retry_after=over)

    def _tokens_ahead(self, lane: Lane) -> int:
        """Tokens that will be computed before those of a new request in this lane."""
        waiting = {one: self._queue.tokens(one) for one in LANES}
        if lane == "bulk":
            return self._worker.running_tokens + sum(waiting.values())
        bulk_meanwhile = min(waiting["bulk"], waiting["interactive"] // (BULK_INTERVAL - 1))
        return self._worker.running_tokens + waiting["interactive"] + bulk_meanwhile

    def _call_on_loop(self, function: Callable[..., None], argument: object) -> None:
        """Run a function on the event loop, from the worker's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, argument)

    def _on_batch_finished(self, done: CompletedBatch[Result]) -> None:
        found: dict[PendingRequest[Result], list[tuple[int, Result]]] = {}
        sound = [] if done.error else list(map(self._is_valid, done.results))
        if sound:
            self.last_batch_invalid = not any(sound)
        if not all(sound):
            log.error("the model gave results that are no numbers", texts=len(sound), unsound=sound.count(False))
        for place, piece in enumerate(done.batch.items):
            job = piece.request
            assert isinstance(job, PendingRequest)  # noqa: S101  Nothing else is ever put into the queue.
            job.started_at = job.started_at or done.started
            if done.error:
                _resolve(job, _client_error(done.error))
            elif not sound[place]:
                _resolve(job, InternalError("The model gave no numbers for one of these texts."))
            else:
                found.setdefault(job, []).append((piece.index, done.results[place]))
        for job, results in found.items():
            if not job.completed.done():
                self._deliver(job, results)

    def _deliver(self, job: PendingRequest[Result], results: Sequence[tuple[int, Result]]) -> None:
        try:
            job.deliver(results)
        except Exception:  # A fault of the one who asked must not cost the rest of the batch its answers.
            log.exception("results are not taken")
            _resolve(job, InternalError("The server failed on this request."))
            return
        job.unfinished -= len(results)
        if not job.unfinished:
            _resolve(job, None)

    def _mark_lost(self, error: BaseException) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        log.critical("model lost", exc_info=error)
        for job in list(self._pending):
            _resolve(
                job, Unavailable("The model was lost while it computed. Try again.", retry_after=RETRY_AFTER_SECONDS)
            )
        self._on_lost()

    async def _watch_for_hang(self) -> None:
        limit = self._config.hang_timeout_seconds
        while not self._is_lost:
            await asyncio.sleep(min(1.0, limit / 4))
            if self._worker.stuck_seconds() > limit:
                self._mark_lost(TimeoutError(f"a batch has not ended within {limit:g} s"))

    async def close(self, seconds: float = 5.0) -> None:
        """Run what has begun to its end, for at most `seconds`, and nothing else."""
        self._watchdog.cancel()
        self._worker.stop()
        await asyncio.to_thread(self._thread.stop, seconds)


def _resolve(job: PendingRequest[Result], error: OnecardError | None) -> None:
    if job.completed.done():
        return
    if error:
        job.completed.set_exception(error)
    else:
        job.completed.set_result(None)


def _client_error(error: Exception) -> OnecardError:
    if isinstance(error, OutOfMemory):
        return Unavailable(
            "One of the texts does not fit the device's memory now. Shorten it, or try again.", retry_after=5
        )
    return InternalError("The model failed on this request.")
