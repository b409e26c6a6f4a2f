"""Writes that leave together."""

import asyncio
from typing import Any

MOST_HELD_BYTES = 64 * 1024
"""More is written at once: the transport then sees it, and says when its client is too slow."""


class CorkedTransport:
    """A transport whose small writes of one turn of the event loop leave as one.

    uvicorn writes an answer's head and its body one after the other, and uvloop would send each at once: two system
    calls, and two packets that wake the client up.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._held_bytes = 0

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's own."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send `data`, at the end of this turn of the loop at the latest."""
        if not self._held:
            self._loop.call_soon(self._let_go)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > MOST_HELD_BYTES:
            self._let_go()

    def close(self) -> None:
        """Send what is held, and close."""
        self._let_go()
        self._transport.close()

    def _let_go(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        if held and not self._transport.is_closing():
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))
