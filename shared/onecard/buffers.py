"""One budget in bytes for what a process holds for others: who wants more is held back, and then refused."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal

from onecard.errors import Unavailable

WAIT_SECONDS = 5.0
"""How long somebody is held back for room before they are refused."""
RETRY_AFTER_SECONDS = 2.0

Kind = Literal["answer", "body"]
"""Bodies of requests fill half of the budget at most: what is asked for has to be answered."""


class Buffers:
    """So many bytes for all."""

    def __init__(self, most_bytes: int, refused: Callable[[], None] = lambda: None) -> None:
        """Take `refused`, which hears of each refusal."""
        self._most = {"answer": most_bytes, "body": most_bytes // 2}
        self._refused = refused
        self._waiting: dict[Kind, deque[tuple[asyncio.Future[None], int]]] = {"answer": deque(), "body": deque()}
        self.held_bytes = 0

    def hold(self) -> "Held":
        """Nothing yet, for somebody."""
        return Held(self)

    async def take(self, count: int, kind: Kind) -> None:
        """So many bytes more, now or as soon as there is room, first come first served.

        Raises:
            Unavailable: there is none in time.
        """
        waiting = self._waiting[kind]
        if not waiting and self.held_bytes + count <= self._most[kind]:
            self.held_bytes += count
            return
        granted = asyncio.get_running_loop().create_future()
        waiting.append((granted, count))
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await granted
        except BaseException as error:
            unwanted = granted.done() and not granted.cancelled()  # It came at the very moment in which nobody waited.
            if (granted, count) in waiting:  # Else it has been passed over already, between the end and this turn.
                waiting.remove((granted, count))
            self.give_back(count if unwanted else 0)  # In any case, whoever stood behind may fit in now.
            if not isinstance(error, TimeoutError):
                raise
            self._refused()
            message = "Too much is being sent or read slowly just now, and there is no room for more. Try again soon."
            raise Unavailable(message, retry_after=RETRY_AFTER_SECONDS) from None

    def give_back(self, count: int) -> None:
        """So many bytes are held no longer; whoever waits and fits in has them, answers first."""
        self.held_bytes -= count
        for kind, waiting in self._waiting.items():
            while waiting and self.held_bytes + waiting[0][1] <= self._most[kind]:
                granted, wanted = waiting.popleft()
                if not granted.done():
                    self.held_bytes += wanted
                    granted.set_result(None)


class Held:
    """What is held for one: it is given back when this is closed, or forgotten."""

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._bytes = 0
        self._open = True

    async def more(self, count: int, kind: Kind = "answer") -> None:
        """Hold so many bytes more.

        Raises:
            Unavailable: there is no room in time.
        """
        await self._buffers.take(count, kind)
        if self._open:
            self._bytes += count
        else:
            self._buffers.give_back(count)

    def close(self) -> None:
        """All of it is gone."""
        self._open = False
        count, self._bytes = self._bytes, 0
        if count:
            self._buffers.give_back(count)

    __del__ = close
