"""HTTP/1.1 and 1.0 on one connection."""

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
"""Most bytes of pipelined requests read ahead while one is answered; the client has to wait with more."""
MAX_FRAMING_BYTES = 1_000_000
"""Most framing bytes of a chunked body beyond as many as it has payload bytes: a chunk of one byte costs the event loop
as much as one of 64 KiB."""
_CONNECTION_CLOSE = (b"connection", b"close")


class Http1(ConnectionTimeouts, ZttpProtocol):
    """uvicorn's protocol with time limits; its parser already limits every part of a request in bytes.

    Without time limits it would wait for ever: for headers, for the rest of an unwanted body, for a client that does
    not read. Invalid requests get a 400, 408 or 431 in OpenAI's error format. Offers to upgrade are ignored: there are
    no WebSockets, and HTTP/2 starts with its own preface.
    """

    flow: "_PipelineFlowControl"

    def __init__(self, *args: Any, limits: ConnectionLimits, **options: Any) -> None:
        """Prepare a connection; `ConnectionProtocol` calls this.

        Args:
            args: uvicorn's.
            limits: shared by all connections of the server.
            options: uvicorn's.
        """
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
        previous = self.cycle
        if previous is not None and not previous.more_body and not previous.response_complete:
            self._pipelined_bytes += len(data)
            self.flow.paused = self._pipelined_bytes > MAX_PIPELINED_BYTES
            if self.flow.paused:
                self.flow.pause_reading()
        body_bytes_before = len(previous.body) if previous is not None else 0
        super().data_received(data)
        if self.cycle is not previous:
            self._on_request_started()
            body_bytes_before = 0
        elif previous is None or previous.response_complete:
            self._start_header_timer()
        if self.cycle is not None and self.cycle.more_body:
            self._framing_bytes += len(data) - 2 * (len(self.cycle.body) - body_bytes_before)
            if self._framing_bytes > MAX_FRAMING_BYTES:
                self._refuse(InvalidRequest("The body comes in chunks that are too small. Send larger ones."))

    def _start_header_timer(self) -> None:
        """Limit the time for the next request's headers; sending them slowly does not extend it."""
        if not self.transport.is_closing() and self._lingering_close is None:
            self._start_request_timer(self.limits.header_timeout_seconds)

    def _on_request_started(self) -> None:
        """Called when the headers of a request are complete."""
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
            is_repeated = any(len(event.headers.getall(name)) > 1 for name in (b"host", b"content-length"))
            # The parser treats `head` as HEAD and uvicorn does not: they would disagree on the response's body.
            if is_repeated or not event.path.isascii() or not event.method.isupper():
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
            self._start_send_timer()  # The connection closes after the client has read the rest.
        elif answered.more_body:
            # The rest of the request's body is unwanted, and the next request would come after it.
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
        response: OnecardError | None = error
        if cycle is not None and not cycle.response_complete:
            awaits_response = cycle.response_started or not cycle.more_body
            cycle.disconnected = True
            cycle.message_event.set()
            if awaits_response:
                response = None  # The client would take it for the response to the previous request.
        self._lingering_close = LingeringClose(self.transport, self.loop, response)


class _PipelineFlowControl(FlowControl):
    """Keeps reading paused while too much is pipelined.

    Otherwise an application that waits for its client's disconnect would make uvicorn read requests without limit.
    """

    paused = False

    @override
    def resume_reading(self) -> None:
        if not self.paused:
            super().resume_reading()


class _UnreadBodyConnection:
    """The parser, for a request whose body has not arrived yet.

    A response sent before the body is complete closes the connection, after the client has read it.
    """

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
    """The parser, for a response to HTTP/1.0, which has no chunked encoding.

    A response of unknown length ends with the connection.
    """

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
