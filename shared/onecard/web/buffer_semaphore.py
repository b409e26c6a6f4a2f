"""One budget in bytes for what a process holds for others: who wants more is held back, and then refused."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal

from onecard.errors import Unavailable

ACQUIRE_TIMEOUT_SECONDS = 5.0
"""How long somebody is held back for room before they are refused."""
RETRY_AFTER_SECONDS = 2.0

BufferKind = Literal["answer", "body"]
"""Bodies of requests fill half of the budget at most: what is asked for has to be answered."""


class BufferSemaphore:
    """So many bytes for all."""

    def __init__(self, most_bytes: int, refused: Callable[[], None] = lambda: None) -> None:
        """Take `refused`, which hears of each refusal."""
        self._capacity_bytes = {"answer": most_bytes, "body": most_bytes // 2}
        self._on_refused = refused
        self._waiters: dict[BufferKind, deque[tuple[asyncio.Future[None], int]]] = {"answer": deque(), "body": deque()}
        self.used_bytes = 0

    def lease(self) -> "BufferLease":
        """Nothing yet, for somebody."""
        return BufferLease(self)

    async def acquire(self, count: int, kind: BufferKind) -> None:
        """So many bytes more, now or as soon as there is room, first come first served.

        Raises:
            Unavailable: there is none in time.
        """
        waiting = self._waiters[kind]
        if not waiting and self.used_bytes + count <= self._capacity_bytes[kind]:
            self.used_bytes += count
            return
        granted = asyncio.get_running_loop().create_future()
        waiting.append((granted, count))
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT_SECONDS):
                await granted
        except BaseException as error:
            unwanted = granted.done() and not granted.cancelled()  # It came at the very moment in which nobody waited.
            if (granted, count) in waiting:  # Else it has been passed over already, between the end and this turn.
                waiting.remove((granted, count))
            self.release(count if unwanted else 0)  # In any case, whoever stood behind may fit in now.
            if not isinstance(error, TimeoutError):
                raise
            self._on_refused()
            message = "Too much is being sent or read slowly just now, and there is no room for more. Try again soon."
            raise Unavailable(message, retry_after=RETRY_AFTER_SECONDS) from None

    def release(self, count: int) -> None:
        """So many bytes are held no longer; whoever waits and fits in has them, answers first."""
        self.used_bytes -= count
        for kind, waiting in self._waiters.items():
            while waiting and self.used_bytes + waiting[0][1] <= self._capacity_bytes[kind]:
                granted, wanted = waiting.popleft()
                if not granted.done():
                    self.used_bytes += wanted
                    granted.set_result(None)


class BufferLease:
    """What is held for one: it is given back when this is closed, or forgotten."""

    def __init__(self, buffers: BufferSemaphore) -> None:
        self._semaphore = buffers
        self._bytes = 0
        self._open = True

    async def acquire(self, count: int, kind: BufferKind = "answer") -> None:
        """Hold so many bytes more.

        Raises:
            Unavailable: there is no room in time.
        """
        await self._semaphore.acquire(count, kind)
        if self._open:
            self._bytes += count
        else:
            self._semaphore.release(count)

    def close(self) -> None:
        """All of it is gone."""
        self._open = False
        count, self._bytes = self._bytes, 0
        if count:
            self._semaphore.release(count)

    __del__ = close
