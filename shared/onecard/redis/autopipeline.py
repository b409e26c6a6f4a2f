"""Automatic pipelining: everything requested in one iteration of the event loop goes to Redis in one batch.

A batch has one deadline and succeeds or fails as a whole. A timeout closes no connection: a task waits much longer than
the callers do, and reads and discards a late reply.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")

ABORT_SECONDS = 1.0
"""How long after its callers' timeout a batch is cancelled, which closes its connection."""
_GRACE_SECONDS = 0.01
"""Last part of a caller's timeout. After the event loop was blocked, its timers run before it reads the sockets; thanks
to the grace, a reply that arrived meanwhile is read instead of counting as silence."""
MAX_BATCH_ITEMS = 256
"""Most items in a batch; further ones go into the next. Requests for more items may wait longer: see
`AutoPipeline.execute`."""
_MAX_BATCHES_IN_FLIGHT = 4
"""Batches in flight, each on its own connection. Further batches wait, within their own deadline."""


class RedisUnavailable(Exception):
    """Redis gave no usable reply.

    `reason` is one word, such as silent, slow, lost, protocol, closed or server_oom.
    """

    def __init__(self, reason: str) -> None:
        """Describe the failure.

        Args:
            reason: a label for metrics and logs.
        """
        super().__init__(reason)
        self.reason = reason


@dataclass(eq=False)
class _PipelineBatch(Generic[Item, Value]):
    wait_started: float = 0.0
    """Start of its current wait, on the monotonic clock."""
    extensions_left: int = 0
    """How many more waits it may have while Redis answers other batches."""
    items: list[Item] = field(default_factory=list)
    callers: "list[tuple[asyncio.Future[list[Value]], int]]" = field(default_factory=list)
    """One future per caller and how many of the items are its own, in order."""
    timer: asyncio.TimerHandle | None = None
    task: "asyncio.Task[object] | None" = None
    """Runs the batch, once it has left the queue."""

    def fail(self, error: Exception) -> None:
        """Give `error` to every caller that has no answer yet."""
        if self.timer is not None:
            self.timer.cancel()
        for answer, _ in self.callers:
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # Marks it as retrieved: otherwise asyncio would report it if the caller has left.

    def resolve(self, answers: list[Value]) -> None:
        offset = 0
        for answer, count in self.callers:
            if not answer.done():
                answer.set_result(answers[offset : offset + count])
            offset += count


class AutoPipeline(Generic[Item, Value]):
    """Joins the items of concurrent callers into batches."""

    def __init__(
        self,
        run_batch: Callable[[Sequence[Item]], Awaitable[list[Value]]],
        timeout_seconds: float,
        on_timeout: Callable[[str], None],
    ) -> None:
        """Start with an empty queue.

        Args:
            run_batch: returns one reply for each item.
            timeout_seconds: how long callers wait for a batch.
            on_timeout: called once for each batch that timed out, with "silent", or "slow" if other batches were
                answered meanwhile.
        """
        self._fetch = run_batch
        self._timeout_seconds = timeout_seconds
        self._on_timeout = on_timeout
        self._queued: deque[_PipelineBatch[Item, Value]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_reply_at = 0.0

    async def execute(self, items: Sequence[Item]) -> list[Value]:
        """Send items and wait for their replies. Cancelling affects neither the batch nor other callers.

        A call with many items may wait once more for each `MAX_BATCH_ITEMS` of them, as long as some batch was answered
        during the previous wait.

        Args:
            items: to send.

        Returns:
            One reply for each item, in order.

        Raises:
            RedisUnavailable: there was no reply in time.
            Exception: whatever `run_batch` raised.
        """
        extensions = len(items) // MAX_BATCH_ITEMS
        futures = [
            self._enqueue(items[offset : offset + MAX_BATCH_ITEMS], extensions)
            for offset in range(0, len(items) or 1, MAX_BATCH_ITEMS)
        ]
        return await futures[0] if len(futures) == 1 else [answer for future in futures for answer in await future]

    def _enqueue(self, items: Sequence[Item], extensions: int) -> "asyncio.Future[list[Value]]":
        loop = asyncio.get_running_loop()
        if not self._queued or len(self._queued[-1].items) + len(items) > MAX_BATCH_ITEMS:
            self._queued.append(_PipelineBatch())
            self._start_timer(self._queued[-1])
            self._start_next()
        batch = self._queued[-1]
        batch.extensions_left = max(batch.extensions_left, extensions)
        answer: asyncio.Future[list[Value]] = loop.create_future()
        batch.items.extend(items)
        batch.callers.append((answer, len(items)))
        return answer

    async def close(self) -> None:
        """Fail the queued batches and cancel the running ones."""
        while self._queued:
            self._queued.popleft().fail(RedisUnavailable("closed"))
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _start_next(self) -> None:
        """Run the next batch from the next loop iteration on, so that callers of this one still join it."""
        if self._queued and len(self._tasks) < _MAX_BATCHES_IN_FLIGHT:
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._start_next()

    async def _run(self) -> None:
        if not self._queued:
            return
        batch = self._queued.popleft()
        batch.task = asyncio.current_task()
        failure: Exception = RedisUnavailable("closed")
        try:
            answers = await self._fetch(batch.items)
            self._last_reply_at = time.monotonic()
            batch.resolve(answers)
        except Exception as error:
            failure = error
        finally:
            batch.fail(failure)

    def _start_timer(self, batch: _PipelineBatch[Item, Value]) -> None:
        batch.wait_started = time.monotonic()
        until_grace = max(0, self._timeout_seconds - _GRACE_SECONDS)
        batch.timer = asyncio.get_running_loop().call_later(until_grace, self._start_grace, batch)

    def _start_grace(self, batch: _PipelineBatch[Item, Value]) -> None:
        batch.timer = asyncio.get_running_loop().call_later(_GRACE_SECONDS, self._on_deadline, batch)

    def _on_deadline(self, batch: _PipelineBatch[Item, Value]) -> None:
        reason = "slow" if self._last_reply_at > batch.wait_started else "silent"
        if reason == "slow" and batch.extensions_left:
            batch.extensions_left -= 1
            self._start_timer(batch)
            return
        batch.fail(RedisUnavailable(reason))
        if batch.task is None:
            self._queued.remove(batch)
        else:
            batch.timer = asyncio.get_running_loop().call_later(ABORT_SECONDS, batch.task.cancel)
        self._on_timeout(reason)
