"""HTTP/1.1 with a service: one connection, and one answer after another on it.

llhttp, by httptools, reads what comes, as it does for uvicorn on the gateway's other side; here is what becomes of
it. A relay needs little of an HTTP client, and pays for the rest with every request
([decision 19](../../docs/decisions/0019-the-relay-has-its-own-connections.md)).
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import cast

import httptools

MOST_HELD_BYTES = 128 * 1024
"""Of a body that nobody has read yet: the service is not read from while more is there."""
MOST_HEAD_BYTES = 64 * 1024
"""A longer head is no answer."""
MOST_UNTOLD_BYTES = 64 * 1024
"""Over TLS a connection does not serve again after a longer request: part of it may not have left yet."""
_INTERIM = range(100, 200)
_WITHOUT_BODY = (204, 304)


class Fault(Exception):
    """There is no whole answer. Neither an address nor what came is in the message."""


class NoAnswer(Fault):
    """There was no connection, or it ended before an answer had begun: most often, that of a service that has restarted
    since. Repeating is safe where doing it twice is as if it was done once."""


class BadAnswer(Fault):
    """What came is not HTTP, or broke off."""


class Answer:
    """An answer whose head is here. Its body is read once, by one reader."""

    def __init__(self, connection: "Connection", status: int, headers: Mapping[bytes, bytes]) -> None:
        self.status = status
        self._connection = connection
        self._headers = headers
        self._chunks: list[bytes] = []
        self._held_bytes = 0
        self._fault: Fault | None = None
        self._changed: asyncio.Future[None] | None = None
        self.is_whole = False
        """All of it has come."""

    def header(self, name: bytes) -> str | None:
        """The header of this name, which is given in lower case; one that came in several lines is one list."""
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def chunk(self) -> bytes:
        """What has come since the last time, at least one byte; empty at the end.

        Raises:
            BadAnswer: it broke off.
        """
        while not self._chunks:
            if self._fault is not None:
                raise self._fault
            if self.is_whole:
                return b""
            self._changed = asyncio.get_running_loop().create_future()
            await self._changed
        return self._take()

    async def read(self) -> bytes:
        """All that has not been read.

        Raises:
            BadAnswer: it broke off.
        """
        if self.is_whole:
            return self._take()
        parts = []
        while part := await self.chunk():
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        """Have no more of it. After a whole answer the connection serves again; otherwise it ends, which cancels what
        the service does."""
        self._connection.leave(self)

    def _take(self) -> bytes:
        chunks, self._chunks, self._held_bytes = self._chunks, [], 0
        self._connection.read_on()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def put(self, chunk: bytes) -> bool:
        """For the connection: a part of the body is here. Whether there is room for more."""
        self._chunks.append(chunk)
        self._held_bytes += len(chunk)
        self._tell()
        return self._held_bytes <= MOST_HELD_BYTES

    def end(self, fault: Fault | None = None) -> None:
        """For the connection: it is whole, or broke off."""
        self.is_whole, self._fault = fault is None, fault
        self._tell()

    def _tell(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)


class Connection(asyncio.Protocol):
    """A connection to a service, for one request at a time."""

    def __init__(self, on_free: Callable[["Connection"], None], on_lost: Callable[["Connection"], None]) -> None:
        """Call `on_free` when it can be asked again, and `on_lost` when it has ended."""
        self._on_free = on_free
        self._on_lost = on_lost
        self._transport: asyncio.Transport
        self._is_tls = False
        self._parser = httptools.HttpResponseParser(self)
        self._asked: asyncio.Future[Answer] | None = None
        self._answer: Answer | None = None
        """Until it is closed."""
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._ends_with_connection = False
        """The answer does: nothing says how long it is."""
        self._is_paused = False
        self._keeps = True
        """It may serve again."""

    @property
    def is_free(self) -> bool:
        """It can be asked: the last answer has been closed, and all of its request has left. A service may answer
        before it has read a body; the next request behind the rest of that would be taken for a part of it."""
        waits = self._asked is not None or self._answer is not None
        return (
            self._keeps and not waits and not (self._transport.is_closing() or self._transport.get_write_buffer_size())
        )

    @property
    def has_heard(self) -> bool:
        """Something has come since it was asked last."""
        return self._head_bytes > 0

    async def ask(self, head: bytes, body: bytes) -> Answer:
        """Send a request and wait for the head of its answer. Who does not wait until then ends the connection.

        Raises:
            NoAnswer, BadAnswer: it ended before, or what came is no answer.
        """
        self._asked = asyncio.get_running_loop().create_future()
        self._head_bytes = 0
        # What TLS holds back nobody is told.
        self._keeps = self._keeps and not (self._is_tls and len(body) > MOST_UNTOLD_BYTES)
        self._transport.writelines((head, body))
        try:
            return await self._asked
        except BaseException:
            self.abort()
            raise
        finally:
            self._asked = None

    def leave(self, answer: Answer) -> None:
        """Nobody reads this answer any more."""
        if answer is not self._answer:
            return
        self._answer = None
        if not answer.is_whole:
            answer.end(BadAnswer("closed"))
            self.abort()
            return
        self.read_on()
        if self.is_free:
            self._on_free(self)
        else:
            self.abort()

    def read_on(self) -> None:
        """There is room for more of the body."""
        if self._is_paused and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """End it at once: a frozen service would not take what is buffered."""
        self._keeps = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast("asyncio.Transport", transport)
        self._is_tls = transport.get_extra_info("ssl_object") is not None

    def eof_received(self) -> None:
        """Called by asyncio when the service has said its last: that may be the end of an answer, and is the end of the
        connection, even if part of a request has not left yet."""
        if self._ends_with_connection and self._answer is not None and not self._answer.is_whole:
            self._answer.end()
        self._fail(NoAnswer("the connection ended"))
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio, after any end, also our own: what is not whole by now never will be."""
        self._keeps = False
        self._fail(NoAnswer("the connection was lost"))
        self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio, whether anybody has asked or not."""
        if self._asked is None and (self._answer is None or self._answer.is_whole):
            self.abort()  # Nobody has asked for it.
            return
        if self._answer is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._break()
            return
        if self._answer is None and self._head_bytes > MOST_HEAD_BYTES:
            self._break()

    def on_message_begin(self) -> None:
        """Called by the parser, also when another answer follows that nobody has asked for.

        Raises:
            BadAnswer: there has been an answer already. The parser makes an error of its own of it.
        """
        if self._answer is not None:
            raise BadAnswer("a second answer")
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser, also for what trails a chunked body, where nobody looks for headers."""
        if self._answer is not None:
            return
        name, value = name.lower(), value.rstrip(b" \t")
        before = self._headers.get(name)
        self._headers[name] = value if before is None else before + b", " + value

    def on_headers_complete(self) -> None:
        """Called by the parser, also for interim answers (1xx), which are passed over."""
        status = self._parser.get_status_code()
        if status in _INTERIM:
            return
        bounded = b"content-length" in self._headers or b"transfer-encoding" in self._headers
        self._ends_with_connection = not bounded and status not in _WITHOUT_BODY
        self._answer = Answer(self, status, self._headers)
        if self._asked is not None and not self._asked.done():  # Else who has asked is about to end the connection.
            self._asked.set_result(self._answer)

    def on_body(self, body: bytes) -> None:
        """Called by the parser, for all that has come even if there is no more room."""
        if self._answer is None or self._answer.put(body) or self._is_paused or self._transport.is_closing():
            return
        self._is_paused = True
        self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """Called by the parser, which knows by then whether the service ends the connection."""
        if self._answer is not None:  # It is none of an interim one.
            self._keeps = self._keeps and self._parser.should_keep_alive()
            self._answer.end()

    def _break(self) -> None:
        """What has come is no answer."""
        self._fail(BadAnswer("no HTTP"))
        self.abort()

    def _fail(self, fault: Fault) -> None:
        """There is no answer, or if it has begun, not the whole of it."""
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(fault)
        elif self._answer is not None and not self._answer.is_whole:
            self._answer.end(BadAnswer(str(fault)))
