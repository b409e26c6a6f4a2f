"""What becomes of a request's work when its client leaves: it is cancelled."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

from starlette.types import Receive

T = TypeVar("T")

_UNWATCHED_SECONDS = 0.02
"""Answers that take no longer are not worth a task that watches for the client."""


class ClientGone(Exception):
    """The client disconnected before its answer ended. The edge records it; nobody is left to be answered."""


@asynccontextmanager
async def connected(receive: Receive) -> AsyncIterator[None]:
    """Cancel what runs in the block when the client disconnects.

    Args:
        receive: the request's ASGI channel, after its body has been read.

    Raises:
        ClientGone: it did.
    """
    working = asyncio.current_task()
    assert working is not None  # noqa: S101 - an ASGI app runs in a task
    cancelled_before = working.cancelling()
    watch = _Watch(receive, working)
    timer = asyncio.get_running_loop().call_later(_UNWATCHED_SECONDS, watch.begin)
    try:
        yield
    except asyncio.CancelledError:
        # Ours only if nobody else wants the task to end: the same count that asyncio.timeout keeps.
        if watch.client_left and working.uncancel() <= cancelled_before:
            raise ClientGone from None
        raise
    finally:
        timer.cancel()
        watch.end()


async def while_connected(work: Awaitable[T], receive: Receive) -> T:
    """The result of `work`, which is cancelled when the client disconnects first. See `connected`."""
    async with connected(receive):
        return await work


class _Watch:
    """Waits for the disconnect in a task of its own."""

    def __init__(self, receive: Receive, working: "asyncio.Task[object]") -> None:
        self._receive = receive
        self._working = working
        self._watching: asyncio.Task[None] | None = None
        self.client_left = False

    def begin(self) -> None:
        """Start to wait."""
        self._watching = asyncio.create_task(self._disconnect())

    def end(self) -> None:
        """Stop waiting."""
        if self._watching is not None:
            self._watching.cancel()

    async def _disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.client_left = True
        self._working.cancel()
