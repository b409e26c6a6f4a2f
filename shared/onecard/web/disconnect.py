"""Cancels the work on a request when its client disconnects."""

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import TypeVar

from starlette.types import Receive

T = TypeVar("T")

_WATCH_DELAY_SECONDS = 0.02
"""A shorter request is not worth a task that watches for the disconnect."""


class ClientDisconnected(Exception):
    """The client disconnected before its response ended. The request middleware records it and sends nothing."""


class cancel_on_disconnect:
    """Context manager that cancels its block when the client disconnects.

    Raises:
        ClientDisconnected: at its end, if the client did.
    """

    def __init__(self, receive: Receive) -> None:
        """Prepare to watch.

        Args:
            receive: the request's ASGI channel, after its body has been read.
        """
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None
        self.disconnected = False
        """Whether the client has disconnected."""

    def __enter__(self) -> "cancel_on_disconnect":
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - an ASGI app runs in a task
        self._task = task
        self._cancellations_before = task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(_WATCH_DELAY_SECONDS, self._start_watcher)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        # Swallow the cancellation only if no one else cancelled the task too, as asyncio.timeout does.
        cancelled_by_us = self.disconnected and isinstance(error, asyncio.CancelledError)
        if cancelled_by_us and self._task.uncancel() <= self._cancellations_before:
            raise ClientDisconnected from None

    def _start_watcher(self) -> None:
        self._watcher = asyncio.create_task(self._wait_for_disconnect())

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.disconnected = True
        self._task.cancel()


async def run_until_disconnect(work: Awaitable[T], receive: Receive) -> T:
    """Await something, and cancel it if the client disconnects first.

    Args:
        work: to await.
        receive: the request's ASGI channel, after its body has been read.

    Returns:
        The result of `work`.

    Raises:
        ClientDisconnected: the client disconnected first.
    """
    with cancel_on_disconnect(receive):
        return await work
