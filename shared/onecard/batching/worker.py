"""The loop of the device's thread: takes batches from the queue, runs them, hands on what they gave."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from onecard import logs
from onecard.batching.admission import Throughput
from onecard.batching.budget import Budget
from onecard.batching.engine import Engine, EngineLost, OutOfMemory, Running
from onecard.batching.metrics import BatchMetrics
from onecard.batching.queue import Batch, Queue

Result = TypeVar("Result")

DEPTH = 2
"""Batches begun at the same time: a GPU computes one while the next is made ready and queued behind it."""
_IDLE_SECONDS = 0.05
"""Pause when what waits cannot be taken, since its time is over and its owner has not dropped it yet."""

log = logs.logger()


@dataclass(frozen=True)
class Done(Generic[Result]):
    """A batch that ended: with results, or with an error."""

    batch: Batch
    results: Sequence[Result]
    error: Exception | None
    started: float
    """Second on `time.monotonic` at which it was begun."""


@dataclass(frozen=True)
class _Begun(Generic[Result]):
    batch: Batch
    running: Running[Result]
    started: float
    busy: bool
    """Others waited when it began."""


class Worker(Generic[Result]):
    """Runs batches. `lock` guards the queue, the budget and the throughput; notify it after a change."""

    def __init__(
        self,
        engine: Engine[Result],
        *,
        queue: Queue,
        budget: Budget,
        throughput: Throughput,
        metrics: BatchMetrics,
        deliver: Callable[[Done[Result]], None],
        lost: Callable[[BaseException], None],
    ) -> None:
        self.lock = threading.Condition()
        self.running_tokens = 0
        """Tokens of text of the batches that are begun and not ended."""
        self._engine = engine
        self._queue = queue
        self._budget = budget
        self._throughput = throughput
        self._metrics = metrics
        self._deliver = deliver
        self._lost = lost
        self._stopping = False
        self._moved = time.monotonic()
        self._begun: deque[_Begun[Result]] = deque()

    def stop(self) -> None:
        """Run no further batch, and let `run` return when those begun have ended."""
        with self.lock:
            self._stopping = True
            self.lock.notify()

    def stuck_seconds(self) -> float:
        """For how long nothing has ended though something is begun; 0 when nothing is."""
        with self.lock:
            return time.monotonic() - self._moved if self.running_tokens else 0.0

    def run(self) -> None:
        """Until `stop`."""
        try:
            while True:
                batch, busy = self._next()
                if batch is not None:
                    self._begin(batch, busy)
                elif not self._begun:
                    return
                while self._begun and (batch is None or len(self._begun) == DEPTH or self._begun[0].running.done()):
                    self._end(self._begun.popleft())
        except BaseException as error:  # Nothing may end this loop in silence: requests would wait for ever.
            self._lost(error)

    def _next(self) -> tuple[Batch | None, bool]:
        """The next batch, and whether more waits behind it.

        None when the device has work already and none more waits, or when stopping.
        """
        with self.lock:
            while not self._stopping:
                batch = self._queue.take(self._budget.limit, time.monotonic()) if self._queue else None
                if batch is not None:
                    self._moved = self._moved if self._begun else time.monotonic()
                    self.running_tokens += batch.tokens
                if batch is not None or self._begun:
                    return batch, bool(self._queue)
                self.lock.wait(_IDLE_SECONDS if self._queue else None)
            return None, False

    def _begin(self, batch: Batch, busy: bool) -> None:
        started = time.monotonic()
        try:
            running = self._engine.launch(batch)
        except EngineLost:
            raise
        except OutOfMemory as error:
            self._ran_out(batch, error, started)
        except Exception as error:
            self._failed(batch, error, started)
        else:
            self._begun.append(_Begun(batch, running, started, busy))

    def _end(self, begun: _Begun[Result]) -> None:
        batch = begun.batch
        try:
            results = begun.running.result()
            if len(results) != len(batch.pieces):
                raise ValueError(f"the engine gave {len(results)} results for {len(batch.pieces)} texts")
        except EngineLost:
            raise
        except OutOfMemory as error:
            self._ran_out(batch, error, begun.started)
            return
        except Exception as error:
            self._failed(batch, error, begun.started)
            return
        now = time.monotonic()
        seconds = now - max(begun.started, self._moved)
        with self.lock:
            self._ended(batch, now)
            self._budget.succeeded()
            limit = self._budget.limit
            if begun.busy or 2 * batch.tokens >= limit.tokens:
                self._throughput.observe(batch.tokens, seconds)
        self._metrics.ran(batch, seconds, limit.tokens)
        self._deliver(Done(batch, results, None, begun.started))

    def _ended(self, batch: Batch, now: float) -> None:
        self.running_tokens -= batch.tokens
        self._moved = now

    def _ran_out(self, batch: Batch, error: OutOfMemory, started: float) -> None:
        """A batch of several texts is run again in smaller ones; a single text is answered with the error."""
        with self.lock:
            self._budget.ran_out(batch.rows.area)
            limit = self._budget.limit.tokens
        log.warning("out of memory", texts=len(batch.pieces), tokens=batch.rows.area, budget_tokens=limit)
        self._metrics.ran_out(limit)
        if len(batch.pieces) == 1:
            self._finish_with(batch, error, started)
            return
        with self.lock:
            self._queue.put_back(batch.pieces)
            self._ended(batch, time.monotonic())

    def _failed(self, batch: Batch, error: Exception, started: float) -> None:
        log.error("batch failed", texts=len(batch.pieces), tokens=batch.rows.area, exc_info=error)
        self._metrics.failed()
        self._finish_with(batch, error, started)

    def _finish_with(self, batch: Batch, error: Exception, started: float) -> None:
        with self.lock:
            self._ended(batch, time.monotonic())
            for piece in batch.pieces:
                self._queue.drop(piece.ticket)
        self._deliver(Done(batch, [], error, started))
