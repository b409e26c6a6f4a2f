"""One connection to a service: aiohttp's, closed as soon as it receives anything that is not the response."""

import asyncio
import select

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.streams import EofStream, StreamReader

MAX_UNREAD_BYTES = 128 * 1024
"""Buffered bytes of a response body at which reading from the service pauses."""
MAX_HEAD_BYTES = 64 * 1024
"""Limit of a response's head, interim responses (1xx) included."""
MAX_FRAMING_RATIO = 16
"""Limit of a response's bytes on the wire per byte of its body: chunked encoding can be almost all framing."""
_READ_BYTES = 256 * 1024
"""Bytes that an event loop reads at once. The parser may have processed only the first of them."""
MAX_REUSABLE_TLS_BYTES = 64 * 1024
"""A TLS connection is not reused after a longer request body: asyncio does not say how much of it is unsent."""
CONNECTION_ERRORS = (aiohttp.ClientError, OSError, EofStream, RuntimeError)
"""What aiohttp and uvloop raise when a connection cannot be opened, or has ended."""


class UpstreamError(Exception):
    """There is no complete response. The message holds neither an address nor what was received."""


class NoResponse(UpstreamError):
    """There was no connection, or it ended before the response began.

    The usual cause is a service that has restarted since the connection was opened. Repeating an idempotent request is
    safe.
    """


class BadResponse(UpstreamError):
    """The response is not HTTP, breaks a rule of this client, or is incomplete."""


class Connection(ResponseHandler):
    """aiohttp's connection, closed when it receives unrequested data or endless framing."""

    def __init__(self, loop: asyncio.AbstractEventLoop, is_open: "set[Connection]") -> None:
        """Start unconnected.

        Args:
            loop: the event loop that it belongs to.
            is_open: the client's set of open connections, in which it registers itself.
        """
        super().__init__(loop)
        self._open = is_open
        self._in_use = False
        self._received = 0
        self._is_reusable = True
        self.request_count = 0

    @property
    def has_received(self) -> bool:
        """Whether anything was received since the last request was sent."""
        return self._received > 0

    @property
    def is_idle(self) -> bool:
        """Whether the last request is completely sent, so that the connection can be reused.

        A service may respond before it has read the whole body. It would read the next request as part of that body.
        """
        return self._is_reusable and self.transport is not None and not self.transport.get_write_buffer_size()

    @property
    def has_unread_input(self) -> bool:
        """Whether the socket has data, or its end, that the event loop has not read yet.

        That is so while reading is paused, or when it arrived during this very iteration of the event loop.
        """
        if self.transport is None:
            return True
        poller = select.poll()
        poller.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poller.poll(0))

    async def request(self, head: bytes, body: bytes) -> tuple[RawResponseMessage, StreamReader]:
        """Send a request and read the head of its response. Interim responses are skipped.

        Args:
            head: request line and headers, with the empty line after them.
            body: the whole body; empty if there is none.

        Returns:
            The head of the response, and the reader of its body.

        Raises:
            NoResponse: the connection ended before the response began.
            BadResponse: what was received is not HTTP.
        """
        self._in_use, self._received, self._payload = True, 0, None
        self.request_count += 1
        self.set_response_params(read_until_eof=True, auto_decompress=False, read_bufsize=MAX_UNREAD_BYTES // 2)
        try:
            if self.transport is None:
                raise NoResponse("the connection has ended")
            # Over TLS, the transport's buffer size leaves out what the TLS layer holds.
            self._is_reusable = (
                len(body) <= MAX_REUSABLE_TLS_BYTES or self.transport.get_extra_info("ssl_object") is None
            )
            self.transport.writelines((head, body))
            while True:
                message, body_reader = await self.read()
                if not 100 <= message.code < 200 or message.code == 101:
                    return message, body_reader
        except CONNECTION_ERRORS:
            failure: UpstreamError = NoResponse("the connection ended")
        except (HttpProcessingError, BadResponse):
            failure = BadResponse("no HTTP")
        raise failure

    def mark_idle(self) -> None:
        """Note that the response has been read: from now on, any input closes the connection."""
        self._in_use = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection. Called by the event loop.

        Args:
            transport: of the connection.
        """
        super().connection_made(transport)
        self._open.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Unregister the connection. Called by the event loop.

        Args:
            exc: why it ended; None if it was closed.
        """
        self._open.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse input. Called by the event loop, and by the parser without data when reading continues after a pause.

        Args:
            data: bytes from the socket.
        """
        if data and not self._in_use:
            self.abort_now()
            return
        self._received += len(data)
        super().data_received(data)
        body = self._payload if type(self._payload) is StreamReader else None
        body_bytes = body.total_bytes if body else 0
        if self._received - body_bytes > MAX_HEAD_BYTES + (_READ_BYTES + MAX_FRAMING_RATIO * body_bytes if body else 0):
            self.set_exception(BadResponse("framing without end"))
            self.abort_now()

    def eof_received(self) -> None:
        """Close the connection after the service has closed its side. Called by the event loop.

        That may be the end of a response. It is closed even if part of a request is unsent.
        """
        super().eof_received()
        self._end()

    def abort_now(self) -> None:
        """Close the connection at once. A response that is still being received is incomplete."""
        if type(self._payload) is StreamReader and not self._payload.is_eof():
            self._payload.set_exception(BadResponse("cut"))
        self._end()

    def _end(self) -> None:
        """Close without sending what is buffered: a frozen service would not read it."""
        self.force_close()
        if self.transport is not None:
            self.transport.abort()
