"""HTTP/1.1, and 1.0, on one connection."""

import sys
from typing import Any

import zttp
from typing_extensions import override
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.zttp_impl import ZttpProtocol

from onecard.errors import HeadersTooLarge, InvalidRequest, OnecardError
from onecard.protocol.limits import ConnectionLimits
from onecard.protocol.timeouts import ConnectionTimeouts, LingeringClose, header_timeout_error
from onecard.protocol.write_coalescing import CoalescingTransport

MAX_PIPELINED_BYTES = 64 * 1024
"""Of requests behind the one that is being answered: more are left with the client until then."""
MAX_FRAMING_BYTES = 1_000_000
"""Of a chunked body that are not its own, beyond as many as are: a chunk of one byte costs the event loop as much as
one of 64 KiB."""
_CONNECTION_CLOSE = (b"connection", b"close")


class Http1(ConnectionTimeouts, ZttpProtocol):
    """uvicorn's protocol, whose parser bounds every part of a request in bytes, with bounds in seconds.

    By itself it waits for ever: for a head, for the rest of a body that nobody wants, for a client that does not read.
    It answers what is no request with 400, 408 and 431 in the one error shape, and ignores every offer to upgrade: we
    serve no WebSockets, and HTTP/2 begins with its own preface.
    """

    flow: "_PipelineFlowControl"

    def __init__(self, *args: Any, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(*args, **options)
        self.limits = limits
        self._pipelined_bytes = self._framing_bytes = 0
        self._lingering_close: LingeringClose | None = None

    @override
    def connection_made(self, transport: CoalescingTransport) -> None:  # type: ignore[override]
        super().connection_made(transport)  # type: ignore[arg-type]
        self.flow = _PipelineFlowControl(transport)  # type: ignore[arg-type]
        self._start_request_timer(self.limits.header_timeout_seconds)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        self._unset_keepalive_if_required()
        if self._lingering_close is not None:
            self._lingering_close.timer.cancel()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        if self._lingering_close is not None:
            self._lingering_close.discard(data)
            return
        before = self.cycle
        if before is not None and not before.more_body and not before.response_complete:
            self._pipelined_bytes += len(data)
            self.flow.paused = self._pipelined_bytes > MAX_PIPELINED_BYTES
            if self.flow.paused:
                self.flow.pause_reading()
        held = len(before.body) if before is not None else 0
        super().data_received(data)
        if self.cycle is not before:
            self._on_request_started()
            held = 0
        elif before is None or before.response_complete:
            self._start_header_timer()
        if self.cycle is not None and self.cycle.more_body:
            self._framing_bytes += len(data) - 2 * (len(self.cycle.body) - held)
            if self._framing_bytes > MAX_FRAMING_BYTES:
                self._refuse(InvalidRequest("The body comes in chunks that are too small. Send larger ones."))

    def _start_header_timer(self) -> None:
        """Its beginning may have come; dripping does not prolong the wait."""
        if not self.transport.is_closing() and self._lingering_close is None:
            self._start_request_timer(self.limits.header_timeout_seconds)

    def _on_request_started(self) -> None:
        """A request's head is whole."""
        self._stop_request_timer()
        self._pipelined_bytes = self._framing_bytes = 0
        self.flow.paused = False
        if self.scope["http_version"] == "1.0":
            self.cycle.conn = _Http10Connection(self.conn)  # type: ignore[assignment]
            self.cycle.keep_alive = False
        elif self.cycle.more_body:
            self.cycle.conn = _UnreadBodyConnection(self.conn, self.cycle)  # type: ignore[assignment]

    @override
    def handle_events(self, event: zttp.Event) -> None:
        if isinstance(event, zttp.Request) and isinstance(event.headers, zttp.HeaderBlock):
            twice = any(len(event.headers.getall(name)) > 1 for name in (b"host", b"content-length"))
            # The parser takes `head` for HEAD, and uvicorn does not: they would disagree about the answer's body.
            if twice or not event.path.isascii() or not event.method.isupper():
                self._refuse(
                    InvalidRequest("Host and Content-Length come once, a method is in capitals, a path is ASCII.")
                )
                return
        super().handle_events(event)

    @override
    def on_response_complete(self) -> None:
        answered, self.flow.paused = self.cycle, False
        super().on_response_complete()
        if self.transport.is_closing():
            self._start_send_timer()  # Closing waits until what is left has been read.
        elif answered.more_body:
            # Nobody wants the rest of its body, and the next request would be behind it.
            self._unset_keepalive_if_required()
            self._lingering_close = LingeringClose(self.transport, self.loop, None)
        elif self.cycle is not answered:
            self._on_request_started()
        elif self._pipelined_bytes:
            self._start_header_timer()

    @override
    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._start_send_timer()

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_send_timer()

    @override
    def resume_writing(self) -> None:
        self._stop_send_timer()
        super().resume_writing()

    @override
    def _should_upgrade(self) -> bool:
        return False

    @override
    def handle_remote_protocol_error(self) -> None:
        if "size limit" in str(sys.exc_info()[1]):
            self._refuse(HeadersTooLarge("The request's headers are too many or too large. Send fewer and shorter."))
        else:
            self._refuse(InvalidRequest("This is not a valid HTTP/1.1 request."))

    @override
    def _on_request_timeout(self) -> None:
        self._request_timer = None
        self._refuse(header_timeout_error(self.limits.header_timeout_seconds))

    def _refuse(self, error: OnecardError) -> None:
        if self.transport.is_closing() or self._lingering_close is not None:
            return
        cycle = self.cycle
        answered: OnecardError | None = error
        if cycle is not None and not cycle.response_complete:
            begun = cycle.response_started or not cycle.more_body
            cycle.disconnected = True
            cycle.message_event.set()
            if begun:
                answered = None  # It would be read as that of the request before.
        self._lingering_close = LingeringClose(self.transport, self.loop, answered)


class _PipelineFlowControl(FlowControl):
    """Reading goes on only when the server, too, wants more: an app that waits for its client to leave would else take
    in requests without end."""

    paused = False

    @override
    def resume_reading(self) -> None:
        if not self.paused:
            super().resume_reading()


class _UnreadBodyConnection:
    """The parser, for a request whose body has not come yet: an answer that does not wait for it says that it is the
    last, and the connection ends when the client has read it."""

    def __init__(self, conn: zttp.H1Connection, cycle: Any) -> None:
        self._conn = conn
        self._cycle = cycle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def send_response(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if self._cycle.more_body:
            headers = [*((name, value) for name, value in headers if name.lower() != b"connection"), _CONNECTION_CLOSE]
        self._conn.send_response(status, headers)

    def should_close(self) -> bool:
        return not self._cycle.more_body and self._conn.should_close()


class _Http10Connection:
    """The parser, for an answer to HTTP/1.0, which knows no chunks: what has no length ends with the connection."""

    def __init__(self, conn: zttp.H1Connection) -> None:
        self._conn = conn
        self._until_close = False
        self._body = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def send_response(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._until_close = any(name.lower() == b"transfer-encoding" for name, _ in headers)
        kept = [(name, value) for name, value in headers if name.lower() != b"connection"]
        self._conn.send_response(status, [*kept, _CONNECTION_CLOSE])

    def send_data(self, data: bytes) -> None:
        if self._until_close:
            self._body += data
        else:
            self._conn.send_data(data)

    def end_message(self) -> None:
        if not self._until_close:
            self._conn.end_message()

    def data_to_send(self) -> bytes:
        body, self._body = self._body, b""
        if not self._until_close:
            return self._conn.data_to_send()
        return self._conn.data_to_send().replace(b"\r\ntransfer-encoding: chunked", b"", 1) + body
