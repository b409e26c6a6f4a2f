"""What a connection waits for, and for how long."""

import asyncio
import uuid
from typing import Any

from onecard import logs
from onecard.errors import OnecardError, SlowRequest, render
from onecard.protocol.limits import ConnectionLimits
from onecard.protocol.write_coalescing import CoalescingTransport, unacknowledged_bytes

LINGER_SECONDS = 2.0
"""How long a client that was refused may go on sending, so that it reads the answer instead of a reset."""
MAX_LINGER_BYTES = 1_000_000
"""And how much."""

log = logs.logger()


def error_response(error: OnecardError) -> tuple[int, dict[str, str], bytes]:
    """The answer to a request that no app has seen: status, headers, body."""
    status, headers, body = render(error)
    headers |= {"x-request-id": uuid.uuid4().hex, "content-length": str(len(body))}
    log.info("request refused", status=status, request_id=headers["x-request-id"])
    return status, headers, body


def header_timeout_error(seconds: float) -> SlowRequest:
    """The error of a head that does not come."""
    return SlowRequest(f"The request's headers did not arrive within {seconds:g} s.")


class LingeringClose:
    """The last answer on a connection: written, and what the client still sends is dropped until it has read it.

    To close at once would reset the connection, and a reset can overtake the answer.
    """

    def __init__(
        self, transport: CoalescingTransport, loop: asyncio.AbstractEventLoop, error: OnecardError | None
    ) -> None:
        self._transport = transport
        self._discarded_bytes = 0
        if error is not None:
            status, headers, body = error_response(error)
            lines = [f"HTTP/1.1 {status} Refused", *(f"{name}: {value}" for name, value in headers.items())]
            transport.write("\r\n".join([*lines, "connection: close", "", ""]).encode() + body)
        transport.write_eof()
        self.timer = loop.call_later(LINGER_SECONDS, transport.abort)

    def discard(self, data: bytes) -> None:
        """What came after it."""
        self._discarded_bytes += len(data)
        if self._discarded_bytes > MAX_LINGER_BYTES:
            self._transport.abort()


class ConnectionTimeouts:
    """Timers of a connection, for a protocol of uvicorn's: one for the client's next request, one for a client that
    does not read what it is sent. Who does not read is cut off: until then its answer holds a place at a replica."""

    transport: Any
    loop: asyncio.AbstractEventLoop
    limits: ConnectionLimits
    _request_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None

    def _start_request_timer(self, seconds: float) -> None:
        """Give up in so many seconds, unless that is decided already."""
        if self._request_timer is None:
            self._request_timer = self.loop.call_later(seconds, self._on_request_timeout)

    def _stop_request_timer(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _on_request_timeout(self) -> None:
        raise NotImplementedError

    def _start_send_timer(self) -> None:
        """Cut the client off, unless it reads what has been written."""
        if self._send_timer is None and self.transport.get_write_buffer_size():
            left = unacknowledged_bytes(self.transport)
            self._send_timer = self.loop.call_later(self.limits.send_timeout_seconds, self._check_send_progress, left)

    def _check_send_progress(self, before: int) -> None:
        self._send_timer = None
        if unacknowledged_bytes(self.transport) < before:
            self._start_send_timer()  # It reads, if slowly.
            return
        log.info("client does not read")
        self.transport.abort()

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _stop_timers(self) -> None:
        self._stop_request_timer()
        self._stop_send_timer()
