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
Answer = TypeVar("Answer")

GIVE_UP_SECONDS = 1.0
"""So long after its callers have left, a question is given up, and its connection with it."""
_GRACE_SECONDS = 0.01
"""Last part of a caller's wait. When the event loop itself was held up, its timers run before it looks at the sockets;
an answer that has arrived meanwhile is read within the grace instead of being taken for a silent server."""
MOST_ITEMS = 256
"""In one batch; who comes then opens the next. Who asks for more waits longer: see `Batches.ask`."""
_MOST_UNDER_WAY = 4
"""Batches, each on a connection of its own. Who comes then waits for the next, within the same deadline."""


class NoAnswer(Exception):
    """Redis gave none. `reason` is a word: silent, slow, lost, protocol, closed, server_oom…"""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(eq=False)
class _Batch(Generic[Item, Answer]):
    since: float = 0.0
    """When its present wait began, on the monotonic clock."""
    patience: int = 0
    items: list[Item] = field(default_factory=list)
    callers: "list[tuple[asyncio.Future[list[Answer]], int]]" = field(default_factory=list)
    """And how many of the items are theirs, in order."""
    timer: asyncio.TimerHandle | None = None
    task: "asyncio.Task[object] | None" = None
    """What fetches it, once it has set off."""

    def end(self, error: Exception) -> None:
        """Who has no answer yet gets `error`."""
        if self.timer is not None:
            self.timer.cancel()
        for answer, _ in self.callers:
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # Retrieved: a caller that has left does not make asyncio complain.

    def give(self, answers: list[Answer]) -> None:
        at = 0
        for answer, count in self.callers:
            if not answer.done():
                answer.set_result(answers[at : at + count])
            at += count


class Batches(Generic[Item, Answer]):
    """Joins what callers ask for."""

    def __init__(
        self, fetch: Callable[[Sequence[Item]], Awaitable[list[Answer]]], seconds: float, on_late: Callable[[str], None]
    ) -> None:
        """`fetch` gives an answer for each item; who waits longer than `seconds` gets `NoAnswer`, and `on_late` is
        told once for each batch: "silent", or "slow" if others were answered meanwhile.
        """
        self._fetch = fetch
        self._seconds = seconds
        self._on_late = on_late
        self._waiting: deque[_Batch[Item, Answer]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._answered_at = 0.0

    async def ask(self, items: Sequence[Item]) -> list[Answer]:
        """The answers to `items`; cancelling takes nothing back and disturbs nobody.

        For each `MOST_ITEMS` it may wait once more, as long as any batch was answered in each wait.

        Raises:
            NoAnswer: not in time.
            Exception: what `fetch` raised.
        """
        patience = len(items) // MOST_ITEMS
        asked = [self._join(items[at : at + MOST_ITEMS], patience) for at in range(0, len(items) or 1, MOST_ITEMS)]
        return await asked[0] if len(asked) == 1 else [answer for one in asked for answer in await one]

    def _join(self, items: Sequence[Item], patience: int) -> "asyncio.Future[list[Answer]]":
        loop = asyncio.get_running_loop()
        if not self._waiting or len(self._waiting[-1].items) + len(items) > MOST_ITEMS:
            self._waiting.append(_Batch())
            self._wait(self._waiting[-1])
            self._set_off()
        batch = self._waiting[-1]
        batch.patience = max(batch.patience, patience)
        answer: asyncio.Future[list[Answer]] = loop.create_future()
        batch.items.extend(items)
        batch.callers.append((answer, len(items)))
        return answer

    async def close(self) -> None:
        """Give up all that is under way."""
        while self._waiting:
            self._waiting.popleft().end(NoAnswer("closed"))
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _set_off(self) -> None:
        """Fetch what waits, beginning with the next turn of the loop: who asks in this one comes along."""
        if self._waiting and len(self._tasks) < _MOST_UNDER_WAY:
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._set_off()

    async def _run(self) -> None:
        if not self._waiting:
            return
        batch = self._waiting.popleft()
        batch.task = asyncio.current_task()
        failure: Exception = NoAnswer("closed")
        try:
            answers = await self._fetch(batch.items)
            self._answered_at = time.monotonic()
            batch.give(answers)
        except Exception as error:
            failure = error
        finally:
            batch.end(failure)

    def _wait(self, batch: _Batch[Item, Answer]) -> None:
        batch.since = time.monotonic()
        least = max(0, self._seconds - _GRACE_SECONDS)
        batch.timer = asyncio.get_running_loop().call_later(least, self._last_chance, batch)

    def _last_chance(self, batch: _Batch[Item, Answer]) -> None:
        batch.timer = asyncio.get_running_loop().call_later(_GRACE_SECONDS, self._out_of_time, batch)

    def _out_of_time(self, batch: _Batch[Item, Answer]) -> None:
        reason = "slow" if self._answered_at > batch.since else "silent"
        if reason == "slow" and batch.patience:
            batch.patience -= 1
            self._wait(batch)
            return
        batch.end(NoAnswer(reason))
        if batch.task is None:
            self._waiting.remove(batch)
        else:
            batch.timer = asyncio.get_running_loop().call_later(GIVE_UP_SECONDS, batch.task.cancel)
        self._on_late(reason)
