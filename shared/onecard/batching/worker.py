"""The loop of the device thread: takes batches from the queue, runs them and passes the results on."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from onecard import logs
from onecard.batching.admission import ThroughputEstimate
from onecard.batching.batch_limit import AdaptiveBatchLimit
from onecard.batching.engine import Engine, EngineLost, OutOfMemory, RunningBatch
from onecard.batching.queue import Batch, RequestQueue

if TYPE_CHECKING:  # So that batches run where Prometheus' client is not installed, as on a card's bare machine.
    from onecard.batching.metrics import BatchMetrics

Result = TypeVar("Result")

PIPELINE_DEPTH = 2
"""Batches started at the same time: while a GPU computes one, the next is prepared and queued behind it."""
_IDLE_SECONDS = 0.05
"""Pause while everything in the queue is past its deadline and its callers have not dropped it yet."""

log = logs.logger()


@dataclass(frozen=True)
class CompletedBatch(Generic[Result]):
    """A batch that ended, with results or with an error."""

    batch: Batch
    results: Sequence[Result]
    """In the batch's order; empty after an error."""
    error: Exception | None
    started: float
    """Time on `time.monotonic` at which it started."""


@dataclass(frozen=True)
class _BatchInFlight(Generic[Result]):
    batch: Batch
    running: RunningBatch[Result]
    started: float
    queue_busy: bool
    """Whether more texts were waiting when it started."""


class BatchWorker(Generic[Result]):
    """Runs batches. `lock` guards the queue, the batch limit and the throughput; notify it after a change."""

    def __init__(
        self,
        engine: Engine[Result],
        *,
        queue: RequestQueue,
        batch_limit: AdaptiveBatchLimit,
        throughput: ThroughputEstimate,
        metrics: "BatchMetrics",
        on_finished: Callable[[CompletedBatch[Result]], None],
        on_lost: Callable[[BaseException], None],
    ) -> None:
        """Prepare the loop; `run` starts it.

        Args:
            engine: the loaded model.
            queue: where batches come from.
            batch_limit: adapted after each batch.
            throughput: updated after each busy batch.
            metrics: of the batcher.
            on_finished: called on the device thread for each batch that ended, unless it is to be retried.
            on_lost: called on the device thread with the error that ended the loop.
        """
        self.lock = threading.Condition()
        self.running_tokens = 0
        """Tokens of text in batches that have started and not ended."""
        self.ended_batches = 0
        self._engine = engine
        self._queue = queue
        self._batch_limit = batch_limit
        self._throughput = throughput
        self._metrics = metrics
        self._on_finished = on_finished
        self._on_lost = on_lost
        self._stopping = False
        self._last_progress = time.monotonic()
        self._in_flight: deque[_BatchInFlight[Result]] = deque()

    def stop(self) -> None:
        """Start no further batch, and let `run` return when those in flight have ended."""
        with self.lock:
            self._stopping = True
            self.lock.notify()

    def run(self) -> None:
        """Run batches until `stop`. Call it on the device thread."""
        try:
            while True:
                batch, busy = self._next()
                if batch is not None:
                    self._launch(batch, busy)
                elif not self._in_flight:
                    return
                while self._in_flight and (
                    batch is None or len(self._in_flight) == PIPELINE_DEPTH or self._in_flight[0].running.done()
                ):
                    self._collect(self._in_flight.popleft())
        except BaseException as error:  # The loop must not end silently: requests would wait for ever.
            self._on_lost(error)

    def _next(self) -> tuple[Batch | None, bool]:
        """The next batch, and whether more wait; None when there is nothing to start now, or when stopping."""
        with self.lock:
            while not self._stopping:
                batch = self._queue.next_batch(self._batch_limit.limit, time.monotonic()) if self._queue else None
                if batch is not None:
                    self._last_progress = self._last_progress if self._in_flight else time.monotonic()
                    self.running_tokens += batch.tokens
                if batch is not None or self._in_flight:
                    return batch, bool(self._queue)
                self.lock.wait(_IDLE_SECONDS if self._queue else None)
            return None, False

    def _launch(self, batch: Batch, busy: bool) -> None:
        started = time.monotonic()
        try:
            running = self._engine.launch(batch)
        except EngineLost:
            raise
        except OutOfMemory as error:
            self._on_out_of_memory(batch, error, started)
        except Exception as error:
            self._on_failure(batch, error, started)
        else:
            self._in_flight.append(_BatchInFlight(batch, running, started, busy))

    def _collect(self, in_flight: _BatchInFlight[Result]) -> None:
        batch = in_flight.batch
        try:
            results = in_flight.running.result()
            if len(results) != len(batch.items):
                raise ValueError(f"the engine gave {len(results)} results for {len(batch.items)} texts")
        except EngineLost:
            raise
        except OutOfMemory as error:
            self._on_out_of_memory(batch, error, in_flight.started)
            return
        except Exception as error:
            self._on_failure(batch, error, in_flight.started)
            return
        now = time.monotonic()
        seconds = now - max(in_flight.started, self._last_progress)
        with self.lock:
            self._mark_ended(batch, now)
            self._batch_limit.record_success()
            limit = self._batch_limit.limit
            if in_flight.queue_busy or 2 * batch.tokens >= limit.tokens:
                self._throughput.observe(batch.tokens, seconds)
        self._metrics.record_batch(batch, seconds, limit.tokens)
        self._on_finished(CompletedBatch(batch, results, None, in_flight.started))

    def _mark_ended(self, batch: Batch, now: float) -> None:
        self.running_tokens -= batch.tokens
        self.ended_batches += 1
        self._last_progress = now

    def _on_out_of_memory(self, batch: Batch, error: OutOfMemory, started: float) -> None:
        """Requeue a batch of several texts, to run in smaller ones; a single text gets the error."""
        with self.lock:
            self._batch_limit.record_out_of_memory(batch.packing.padded_tokens)
            limit = self._batch_limit.limit.tokens
        log.warning("out of memory", texts=len(batch.items), tokens=batch.packing.padded_tokens, budget_tokens=limit)
        self._metrics.record_out_of_memory(limit)
        if len(batch.items) == 1:
            self._finish_with_error(batch, error, started)
            return
        with self.lock:
            self._queue.requeue(batch.items)
            self._mark_ended(batch, time.monotonic())

    def _on_failure(self, batch: Batch, error: Exception, started: float) -> None:
        log.error("batch failed", texts=len(batch.items), tokens=batch.packing.padded_tokens, exc_info=error)
        self._metrics.record_failure()
        self._finish_with_error(batch, error, started)

    def _finish_with_error(self, batch: Batch, error: Exception, started: float) -> None:
        with self.lock:
            self._mark_ended(batch, time.monotonic())
            for item in batch.items:
                self._queue.drop(item.request)
        self._on_finished(CompletedBatch(batch, [], error, started))
