"""A semaphore in bytes for the buffers of a process: requests for more wait, and are refused after a while."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal

from onecard.errors import Unavailable

ACQUIRE_TIMEOUT_SECONDS = 5.0
"""How long a request waits for buffer space before it is refused."""
RETRY_AFTER_SECONDS = 2.0

BufferKind = Literal["answer", "body"]
"""Request bodies may fill half of the buffers at most, so that there is always space for responses."""


class BufferSemaphore:
    """Buffer space shared by all requests."""

    def __init__(self, max_bytes: int, on_refused: Callable[[], None] = lambda: None) -> None:
        """Start with nothing in use.

        Args:
            max_bytes: space for bodies and responses together.
            on_refused: called for each refusal.
        """
        self._capacity_bytes = {"answer": max_bytes, "body": max_bytes // 2}
        self._on_refused = on_refused
        self._waiters: dict[BufferKind, deque[tuple[asyncio.Future[None], int]]] = {"answer": deque(), "body": deque()}
        self.used_bytes = 0

    def lease(self) -> "BufferLease":
        """A lease without any bytes yet."""
        return BufferLease(self)

    async def acquire(self, count: int, kind: BufferKind) -> None:
        """Take space now, or wait for it, first come first served.

        Args:
            count: bytes.
            kind: what they are for.

        Raises:
            Unavailable: there was no space in time.
        """
        waiters = self._waiters[kind]
        if not waiters and self.used_bytes + count <= self._capacity_bytes[kind]:
            self.used_bytes += count
            return
        granted = asyncio.get_running_loop().create_future()
        waiters.append((granted, count))
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT_SECONDS):
                await granted
        except BaseException as error:
            # It was granted at the very moment at which the wait ended.
            granted_too_late = granted.done() and not granted.cancelled()
            if (granted, count) in waiters:  # Otherwise `release` has skipped it already.
                waiters.remove((granted, count))
            self.release(count if granted_too_late else 0)  # In any case, the next waiter may fit now.
            if not isinstance(error, TimeoutError):
                raise
            self._on_refused()
            message = "Too much is being sent or read slowly just now, and there is no room for more. Try again soon."
            raise Unavailable(message, retry_after=RETRY_AFTER_SECONDS) from None

    def release(self, count: int) -> None:
        """Give space back, and grant it to waiters that fit, responses first.

        Args:
            count: bytes.
        """
        self.used_bytes -= count
        for kind, waiters in self._waiters.items():
            while waiters and self.used_bytes + waiters[0][1] <= self._capacity_bytes[kind]:
                granted, requested = waiters.popleft()
                if not granted.done():
                    self.used_bytes += requested
                    granted.set_result(None)


class BufferLease:
    """Space held for one request; given back when the lease is closed or garbage-collected."""

    def __init__(self, semaphore: BufferSemaphore) -> None:
        """Start with nothing.

        Args:
            semaphore: where the space comes from.
        """
        self._semaphore = semaphore
        self._bytes = 0
        self._open = True

    async def acquire(self, count: int, kind: BufferKind = "answer") -> None:
        """Take more space.

        Args:
            count: bytes.
            kind: what they are for.

        Raises:
            Unavailable: there was no space in time.
        """
        await self._semaphore.acquire(count, kind)
        if self._open:
            self._bytes += count
        else:
            self._semaphore.release(count)

    def close(self) -> None:
        """Give all space back."""
        self._open = False
        count, self._bytes = self._bytes, 0
        if count:
            self._semaphore.release(count)

    __del__ = close
