"""Write coalescing: small writes leave in one system call."""

import asyncio
import fcntl
import sys
import termios
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

MAX_COALESCED_BYTES = 64 * 1024
"""More is written at once, so that the transport can report a client that reads too slowly."""


def unacknowledged_bytes(transport: asyncio.Transport) -> int:
    """Bytes written to a connection that the client's machine has not acknowledged.

    The kernel buffers up to some megabytes, and takes more only when a third of that is gone. By the transport's own
    buffer alone, a slow reader would seem not to read at all for minutes.

    Args:
        transport: of the connection.

    Returns:
        Bytes in the transport's buffer and, where the system reports it, in the kernel's.
    """
    queued = bytearray(4)
    with suppress(OSError, ValueError):  # Not every system reports it, and no closed socket does.
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
    return transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)


class CoalescingTransport:
    """A transport that joins small writes until the event loop's next iteration.

    uvicorn writes a response's headers and body separately, and uvloop would send each at once: two system calls, and
    two packets that wake the client.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Wrap a transport.

        Args:
            transport: of the connection.
            loop: runs the deferred write.
        """
        self._transport = transport
        self._loop = loop
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._eof_written = False

    def __getattr__(self, name: str) -> Any:
        """Everything else is the wrapped transport's."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send data, at the latest in the loop's next iteration. After `write_eof` it is dropped."""
        if self._eof_written:
            return
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes > MAX_COALESCED_BYTES:
            self._flush()

    def writelines(self, lines: Iterable[bytes]) -> None:
        """Send several pieces of data."""
        for line in lines:
            self.write(line)

    def write_eof(self) -> None:
        """Send what is buffered, and close our side of the connection."""
        self._flush()
        self._eof_written = True
        if not self._transport.is_closing():
            self._transport.write_eof()

    def get_write_buffer_size(self) -> int:
        """Bytes that have not been handed to the system."""
        return self._pending_bytes + self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Send what is buffered, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        if pending and not self._transport.is_closing():
            self._transport.writelines(pending)
