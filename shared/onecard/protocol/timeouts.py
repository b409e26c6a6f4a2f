"""Timeouts of a connection, and closing one after an error."""

import asyncio
import uuid
from typing import Any

from onecard import logs
from onecard.errors import OnecardError, SlowRequest, render
from onecard.protocol.limits import ConnectionLimits
from onecard.protocol.write_coalescing import CoalescingTransport, unacknowledged_bytes

LINGER_SECONDS = 2.0
"""How long a refused client may go on sending, so that it reads the response instead of a reset."""
MAX_LINGER_BYTES = 1_000_000
"""How much it may send meanwhile."""

log = logs.logger()


def error_response(error: OnecardError) -> tuple[int, dict[str, str], bytes]:
    """Build the response to a request that did not reach the application, and log it.

    Args:
        error: the reason.

    Returns:
        Status, headers and body.
    """
    status, headers, body = render(error)
    headers |= {"x-request-id": uuid.uuid4().hex, "content-length": str(len(body))}
    log.info("request refused", status=status, request_id=headers["x-request-id"])
    return status, headers, body


def header_timeout_error(seconds: float) -> SlowRequest:
    """The error for headers that did not arrive in time."""
    return SlowRequest(f"The request's headers did not arrive within {seconds:g} s.")


class LingeringClose:
    """Closes a connection after a last response: discards what the client still sends, until it has read the response.

    Closing at once would reset the connection, and the reset could overtake the response.
    """

    def __init__(
        self, transport: CoalescingTransport, loop: asyncio.AbstractEventLoop, error: OnecardError | None
    ) -> None:
        """Write the response and close our side.

        Args:
            transport: of the connection.
            loop: runs the timer that aborts the connection after `LINGER_SECONDS`.
            error: to respond with; None if a response has been written already.
        """
        self._transport = transport
        self._discarded_bytes = 0
        if error is not None:
            status, headers, body = error_response(error)
            head_lines = [f"HTTP/1.1 {status} Refused", *(f"{name}: {value}" for name, value in headers.items())]
            transport.write("\r\n".join([*head_lines, "connection: close", "", ""]).encode() + body)
        transport.write_eof()
        self.timer = loop.call_later(LINGER_SECONDS, transport.abort)

    def discard(self, data: bytes) -> None:
        """Discard received data; abort the connection after too much of it."""
        self._discarded_bytes += len(data)
        if self._discarded_bytes > MAX_LINGER_BYTES:
            self._transport.abort()


class ConnectionTimeouts:
    """Timers of a connection, as a mixin for uvicorn's protocols.

    One waits for the client's next request, one for a client that does not read its response. Such a client is cut off:
    its response would occupy an upstream replica.
    """

    transport: Any
    loop: asyncio.AbstractEventLoop
    limits: ConnectionLimits
    _request_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None

    def _start_request_timer(self, seconds: float) -> None:
        """Call `_on_request_timeout` in so many seconds, unless the timer is running."""
        if self._request_timer is None:
            self._request_timer = self.loop.call_later(seconds, self._on_request_timeout)

    def _stop_request_timer(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _on_request_timeout(self) -> None:
        raise NotImplementedError

    def _start_send_timer(self) -> None:
        """Abort the connection if the client reads nothing for `send_timeout_seconds`."""
        if self._send_timer is None and self.transport.get_write_buffer_size():
            unread = unacknowledged_bytes(self.transport)
            self._send_timer = self.loop.call_later(self.limits.send_timeout_seconds, self._check_send_progress, unread)

    def _check_send_progress(self, unread_before: int) -> None:
        self._send_timer = None
        if unacknowledged_bytes(self.transport) < unread_before:
            self._start_send_timer()  # The client reads, if slowly.
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
