"""One connection to a service: aiohttp's, which ends when what comes on it is no answer to what was asked."""

import asyncio
import select

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.streams import EofStream, StreamReader

MAX_UNREAD_BYTES = 128 * 1024
"""Of a body that nobody has read yet: the service is not read from while more is there."""
MAX_HEAD_BYTES = 64 * 1024
"""A longer head is no answer, nor are interim answers without end before it."""
MAX_FRAMING_RATIO = 16
"""An answer may be so many times as long as its body; more is framing for its own sake."""
_READ_BYTES = 256 * 1024
"""What an event loop reads at once, of which the parser may have read only the beginning."""
MAX_REUSABLE_TLS_BYTES = 64 * 1024
"""Over TLS a connection does not serve again after a longer request: part of it may not have left yet."""
CONNECTION_ERRORS = (aiohttp.ClientError, OSError, EofStream, RuntimeError)
"""How aiohttp and uvloop say that there is no connection, or no more."""


class UpstreamError(Exception):
    """There is no whole answer. Neither an address nor what came is in the message."""


class NoResponse(UpstreamError):
    """There was no connection, or it ended before an answer had begun: most often, that of a service that has restarted
    since. Repeating is safe where doing it twice is as if it was done once."""


class BadResponse(UpstreamError):
    """What came is no HTTP, is not what was asked for, or broke off."""


class Connection(ResponseHandler):
    """aiohttp's connection, that ends when something comes which nobody has asked for, or framing without end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, is_open: "set[Connection]") -> None:
        super().__init__(loop)
        self._open = is_open
        self._in_use = False
        self._received = 0
        self._is_reusable = True
        self.request_count = 0

    @property
    def has_received(self) -> bool:
        """Something has come since it was asked last."""
        return self._received > 0

    @property
    def is_idle(self) -> bool:
        """All of its request has left. A service may answer before it has read a body; the next request behind the rest
        of that would be taken for a part of it."""
        return self._is_reusable and self.transport is not None and not self.transport.get_write_buffer_size()

    @property
    def has_unread_input(self) -> bool:
        """Something has come, if only the end, that has not been read yet: while a body waits to be read, or in this
        very turn of the event loop."""
        if self.transport is None:
            return True
        waiting = select.poll()
        waiting.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(waiting.poll(0))

    async def request(self, head: bytes, body: bytes) -> tuple[RawResponseMessage, StreamReader]:
        """Send a request and wait for the head of its answer.

        Raises:
            NoAnswer, BadAnswer: the connection ended before, or what came is no answer.
        """
        self._in_use, self._received, self._payload = True, 0, None
        self.request_count += 1
        self.set_response_params(read_until_eof=True, auto_decompress=False, read_bufsize=MAX_UNREAD_BYTES // 2)
        try:
            if self.transport is None:
                raise NoResponse("the connection has ended")
            # What TLS holds back nobody is told.
            self._is_reusable = (
                len(body) <= MAX_REUSABLE_TLS_BYTES or self.transport.get_extra_info("ssl_object") is None
            )
            self.transport.writelines((head, body))
            while True:
                message, answer = await self.read()
                if not 100 <= message.code < 200 or message.code == 101:
                    return message, answer
        except CONNECTION_ERRORS:
            fault: UpstreamError = NoResponse("the connection ended")
        except (HttpProcessingError, BadResponse):
            fault = BadResponse("no HTTP")
        raise fault

    def mark_idle(self) -> None:
        """Nobody asks any more."""
        self._in_use = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        super().connection_made(transport)
        self._open.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called by the event loop."""
        self._open.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop; and without data by the parser, when there is room again."""
        if data and not self._in_use:
            self.abort_now()
            return
        self._received += len(data)
        super().data_received(data)
        body = self._payload if type(self._payload) is StreamReader else None
        told = body.total_bytes if body else 0
        if self._received - told > MAX_HEAD_BYTES + (_READ_BYTES + MAX_FRAMING_RATIO * told if body else 0):
            self.set_exception(BadResponse("framing without end"))
            self.abort_now()

    def eof_received(self) -> None:
        """Called by the event loop when the service has said its last: that may be the end of an answer, and is the end
        of the connection, even if part of a request has not left yet."""
        super().eof_received()
        self._end()

    def abort_now(self) -> None:
        """End it, whatever is under way: what has not come by now never will."""
        if type(self._payload) is StreamReader and not self._payload.is_eof():
            self._payload.set_exception(BadResponse("cut"))
        self._end()

    def _end(self) -> None:
        """At once: a frozen service would not take what is buffered."""
        self.force_close()
        if self.transport is not None:
            self.transport.abort()
