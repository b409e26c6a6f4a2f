"""The loop of the device's thread: takes batches from the queue, runs them, hands on what they gave."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from onecard import logs
from onecard.batching.admission import ThroughputEstimate
from onecard.batching.batch_limit import AdaptiveBatchLimit
from onecard.batching.engine import Engine, EngineLost, OutOfMemory, RunningBatch
from onecard.batching.metrics import BatchMetrics
from onecard.batching.queue import Batch, RequestQueue

Result = TypeVar("Result")

PIPELINE_DEPTH = 2
"""Batches begun at the same time: a GPU computes one while the next is made ready and queued behind it."""
_IDLE_SECONDS = 0.05
"""Pause when what waits cannot be taken, since its time is over and its owner has not dropped it yet."""

log = logs.logger()


@dataclass(frozen=True)
class CompletedBatch(Generic[Result]):
    """A batch that ended: with results, or with an error."""

    batch: Batch
    results: Sequence[Result]
    error: Exception | None
    started: float
    """Second on `time.monotonic` at which it was begun."""


@dataclass(frozen=True)
class _BatchInFlight(Generic[Result]):
    batch: Batch
    running: RunningBatch[Result]
    started: float
    queue_busy: bool
    """Others waited when it began."""


class BatchWorker(Generic[Result]):
    """Runs batches. `lock` guards the queue, the budget and the throughput; notify it after a change."""

    def __init__(
        self,
        engine: Engine[Result],
        *,
        queue: RequestQueue,
        budget: AdaptiveBatchLimit,
        throughput: ThroughputEstimate,
        metrics: BatchMetrics,
        deliver: Callable[[CompletedBatch[Result]], None],
        lost: Callable[[BaseException], None],
    ) -> None:
        self.lock = threading.Condition()
        self.running_tokens = 0
        """Tokens of text of the batches that are begun and not ended."""
        self._engine = engine
        self._queue = queue
        self._batch_limit = budget
        self._throughput = throughput
        self._metrics = metrics
        self._on_finished = deliver
        self._on_lost = lost
        self._stopping = False
        self._last_progress = time.monotonic()
        self._in_flight: deque[_BatchInFlight[Result]] = deque()

    def stop(self) -> None:
        """Run no further batch, and let `run` return when those begun have ended."""
        with self.lock:
            self._stopping = True
            self.lock.notify()

    def stuck_seconds(self) -> float:
        """For how long nothing has ended though something is begun; 0 when nothing is."""
        with self.lock:
            return time.monotonic() - self._last_progress if self.running_tokens else 0.0

    def run(self) -> None:
        """Until `stop`."""
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
        except BaseException as error:  # Nothing may end this loop in silence: requests would wait for ever.
            self._on_lost(error)

    def _next(self) -> tuple[Batch | None, bool]:
        """The next batch, and whether more waits behind it.

        None when the device has work already and none more waits, or when stopping.
        """
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

    def _collect(self, begun: _BatchInFlight[Result]) -> None:
        batch = begun.batch
        try:
            results = begun.running.result()
            if len(results) != len(batch.items):
                raise ValueError(f"the engine gave {len(results)} results for {len(batch.items)} texts")
        except EngineLost:
            raise
        except OutOfMemory as error:
            self._on_out_of_memory(batch, error, begun.started)
            return
        except Exception as error:
            self._on_failure(batch, error, begun.started)
            return
        now = time.monotonic()
        seconds = now - max(begun.started, self._last_progress)
        with self.lock:
            self._mark_ended(batch, now)
            self._batch_limit.record_success()
            limit = self._batch_limit.limit
            if begun.queue_busy or 2 * batch.tokens >= limit.tokens:
                self._throughput.observe(batch.tokens, seconds)
        self._metrics.record_batch(batch, seconds, limit.tokens)
        self._on_finished(CompletedBatch(batch, results, None, begun.started))

    def _mark_ended(self, batch: Batch, now: float) -> None:
        self.running_tokens -= batch.tokens
        self._last_progress = now

    def _on_out_of_memory(self, batch: Batch, error: OutOfMemory, started: float) -> None:
        """A batch of several texts is run again in smaller ones; a single text is answered with the error."""
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
            for piece in batch.items:
                self._queue.drop(piece.request)
        self._on_finished(CompletedBatch(batch, [], error, started))
