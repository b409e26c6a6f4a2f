"""What becomes of a request's work when its client leaves: it is cancelled."""

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import TypeVar

from starlette.types import Receive

T = TypeVar("T")

_UNWATCHED_SECONDS = 0.02
"""Answers that take no longer are not worth a task that watches for the client."""


class ClientGone(Exception):
    """The client disconnected before its answer ended. The edge records it; nobody is left to be answered."""


class Connected:
    """Context that cancels what runs in it when the client disconnects.

    Raises:
        ClientGone: at its end, if the client did.
    """

    def __init__(self, receive: Receive) -> None:
        """Take the request's ASGI channel, after its body has been read."""
        self._receive = receive
        self._watching: asyncio.Task[None] | None = None
        self.left = False
        """The client has disconnected."""

    def __enter__(self) -> "Connected":
        working = asyncio.current_task()
        assert working is not None  # noqa: S101 - an ASGI app runs in a task
        self._working = working
        self._cancelled_before = working.cancelling()
        self._timer = asyncio.get_running_loop().call_later(_UNWATCHED_SECONDS, self._watch)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()
        # Ours only if nobody else wants the task to end: the same count that asyncio.timeout keeps.
        ours = self.left and isinstance(error, asyncio.CancelledError)
        if ours and self._working.uncancel() <= self._cancelled_before:
            raise ClientGone from None

    def _watch(self) -> None:
        self._watching = asyncio.create_task(self._disconnect())

    async def _disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        self._working.cancel()


async def while_connected(work: Awaitable[T], receive: Receive) -> T:
    """The result of `work`, which is cancelled when the client disconnects first. See `Connected`."""
    with Connected(receive):
        return await work
