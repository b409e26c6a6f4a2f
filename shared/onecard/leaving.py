"""What becomes of a request's work when its client leaves: it is cancelled."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Receive

T = TypeVar("T")


class ClientGone(Exception):
    """The client disconnected before its answer began. The edge records it; nobody is left to be answered."""


async def while_connected(work: Awaitable[T], receive: Receive) -> T:
    """The result of `work`, which is cancelled when the client disconnects first.

    Args:
        receive: the request's ASGI channel, after its body has been read.

    Raises:
        ClientGone: it did.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
