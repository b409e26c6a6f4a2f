"""Writes that leave together."""

import asyncio
import fcntl
import sys
import termios
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

MAX_COALESCED_BYTES = 64 * 1024
"""More is written at once: the transport then sees it, and says when its client is too slow."""


def unacknowledged_bytes(transport: asyncio.Transport) -> int:
    """Bytes that have been written and that the client's machine has not taken.

    The system holds up to some megabytes of them, and asks for more when a third of that is gone: by what the transport
    holds alone, who reads slowly seems not to read at all for minutes.
    """
    queued = bytearray(4)
    with suppress(OSError, ValueError):  # Not every system tells, and none of what is closed.
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
    return transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)


class CoalescingTransport:
    """A transport whose small writes, up to the event loop's next turn, leave as one.

    uvicorn writes an answer's head and its body one after the other, and uvloop would send each at once: two system
    calls, and two packets that wake the client up.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._eof_written = False

    def __getattr__(self, name: str) -> Any:
        """What does not concern writing is the transport's own."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send `data`, in the loop's next turn at the latest. After the end it is dropped."""
        if self._eof_written:
            return
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes > MAX_COALESCED_BYTES:
            self._flush()

    def writelines(self, lines: Iterable[bytes]) -> None:
        """Send all of them."""
        for line in lines:
            self.write(line)

    def write_eof(self) -> None:
        """Send what is held, and say that it was the last."""
        self._flush()
        self._eof_written = True
        if not self._transport.is_closing():
            self._transport.write_eof()

    def get_write_buffer_size(self) -> int:
        """Bytes that have not left."""
        return self._pending_bytes + self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Send what is held, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._pending, self._pending_bytes = self._pending, [], 0
        if held and not self._transport.is_closing():
            self._transport.writelines(held)
