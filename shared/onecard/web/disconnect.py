"""What becomes of a request's work when its client leaves: it is cancelled."""

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import TypeVar

from starlette.types import Receive

T = TypeVar("T")

_WATCH_DELAY_SECONDS = 0.02
"""Answers that take no longer are not worth a task that watches for the client."""


class ClientDisconnected(Exception):
    """The client disconnected before its answer ended. The edge records it; nobody is left to be answered."""


class cancel_on_disconnect:
    """Context that cancels what runs in it when the client disconnects.

    Raises:
        ClientGone: at its end, if the client did.
    """

    def __init__(self, receive: Receive) -> None:
        """Take the request's ASGI channel, after its body has been read."""
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None
        self.disconnected = False
        """The client has disconnected."""

    def __enter__(self) -> "cancel_on_disconnect":
        working = asyncio.current_task()
        assert working is not None  # noqa: S101 - an ASGI app runs in a task
        self._task = working
        self._cancellations_before = working.cancelling()
        self._timer = asyncio.get_running_loop().call_later(_WATCH_DELAY_SECONDS, self._start_watcher)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        # Ours only if nobody else wants the task to end: the same count that asyncio.timeout keeps.
        ours = self.disconnected and isinstance(error, asyncio.CancelledError)
        if ours and self._task.uncancel() <= self._cancellations_before:
            raise ClientDisconnected from None

    def _start_watcher(self) -> None:
        self._watcher = asyncio.create_task(self._wait_for_disconnect())

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.disconnected = True
        self._task.cancel()


async def run_until_disconnect(work: Awaitable[T], receive: Receive) -> T:
    """The result of `work`, which is cancelled when the client disconnects first. See `cancel_on_disconnect`."""
    with cancel_on_disconnect(receive):
        return await work
