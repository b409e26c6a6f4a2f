"""What many callers ask, in one question: all that is asked in one turn of the event loop goes out together.

A batch has one deadline and is answered or given up as a whole. Giving up ends nobody's connection: an answer that
comes late is read and thrown away, by a task that waits a good deal longer than callers do.
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
"""So long after its callers have left, a question is given up, and its connection with it."""
_GRACE_SECONDS = 0.01
"""Last part of a caller's wait. When the event loop itself was held up, its timers run before it looks at the sockets;
an answer that has arrived meanwhile is read within the grace instead of being taken for a silent server."""
MAX_BATCH_ITEMS = 256
"""In one batch; who comes then opens the next. Who asks for more waits longer: see `AutoPipeline.ask`."""
_MAX_BATCHES_IN_FLIGHT = 4
"""Batches, each on a connection of its own. Who comes then waits for the next, within the same deadline."""


class RedisUnavailable(Exception):
    """Redis gave none. `reason` is a word: silent, slow, lost, protocol, closed, server_oom…"""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(eq=False)
class _PipelineBatch(Generic[Item, Value]):
    wait_started: float = 0.0
    """When its present wait began, on the monotonic clock."""
    extensions_left: int = 0
    items: list[Item] = field(default_factory=list)
    callers: "list[tuple[asyncio.Future[list[Value]], int]]" = field(default_factory=list)
    """And how many of the items are theirs, in order."""
    timer: asyncio.TimerHandle | None = None
    task: "asyncio.Task[object] | None" = None
    """What fetches it, once it has set off."""

    def fail(self, error: Exception) -> None:
        """Who has no answer yet gets `error`."""
        if self.timer is not None:
            self.timer.cancel()
        for answer, _ in self.callers:
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # Retrieved: a caller that has left does not make asyncio complain.

    def resolve(self, answers: list[Value]) -> None:
        at = 0
        for answer, count in self.callers:
            if not answer.done():
                answer.set_result(answers[at : at + count])
            at += count


class AutoPipeline(Generic[Item, Value]):
    """Joins what callers ask for."""

    def __init__(
        self, fetch: Callable[[Sequence[Item]], Awaitable[list[Value]]], seconds: float, on_late: Callable[[str], None]
    ) -> None:
        """`fetch` gives an answer for each item; who waits longer than `seconds` gets `RedisUnavailable`, and `on_late`
        is told once for each batch: "silent", or "slow" if others were answered meanwhile.
        """
        self._fetch = fetch
        self._timeout_seconds = seconds
        self._on_timeout = on_late
        self._queued: deque[_PipelineBatch[Item, Value]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_reply_at = 0.0

    async def execute(self, items: Sequence[Item]) -> list[Value]:
        """The answers to `items`; cancelling takes nothing back and disturbs nobody.

        For each `MOST_ITEMS` it may wait once more, as long as any batch was answered in each wait.

        Raises:
            NoAnswer: not in time.
            Exception: what `fetch` raised.
        """
        patience = len(items) // MAX_BATCH_ITEMS
        asked = [
            self._enqueue(items[at : at + MAX_BATCH_ITEMS], patience)
            for at in range(0, len(items) or 1, MAX_BATCH_ITEMS)
        ]
        return await asked[0] if len(asked) == 1 else [answer for one in asked for answer in await one]

    def _enqueue(self, items: Sequence[Item], patience: int) -> "asyncio.Future[list[Value]]":
        loop = asyncio.get_running_loop()
        if not self._queued or len(self._queued[-1].items) + len(items) > MAX_BATCH_ITEMS:
            self._queued.append(_PipelineBatch())
            self._start_timer(self._queued[-1])
            self._start_next()
        batch = self._queued[-1]
        batch.extensions_left = max(batch.extensions_left, patience)
        answer: asyncio.Future[list[Value]] = loop.create_future()
        batch.items.extend(items)
        batch.callers.append((answer, len(items)))
        return answer

    async def close(self) -> None:
        """Give up all that is under way."""
        while self._queued:
            self._queued.popleft().fail(RedisUnavailable("closed"))
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _start_next(self) -> None:
        """Fetch what waits, beginning with the next turn of the loop: who asks in this one comes along."""
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
        least = max(0, self._timeout_seconds - _GRACE_SECONDS)
        batch.timer = asyncio.get_running_loop().call_later(least, self._start_grace, batch)

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
