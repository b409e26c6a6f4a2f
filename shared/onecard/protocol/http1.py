"""HTTP/1.1, and 1.0, on one connection."""

import sys
from typing import Any

import zttp
from typing_extensions import override
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.zttp_impl import ZttpProtocol

from onecard.errors import HeadersTooLarge, InvalidRequest, OnecardError
from onecard.protocol.cork import CorkedTransport
from onecard.protocol.limits import Limits
from onecard.protocol.patience import Farewell, Patience, too_slow

MOST_EARLY_BYTES = 64 * 1024
"""Of requests behind the one that is being answered: more are left with the client until then."""
MOST_FRAMING_BYTES = 1_000_000
"""Of a chunked body that are not its own, beyond as many as are: a chunk of one byte costs the event loop as much as
one of 64 KiB."""
_CLOSE = (b"connection", b"close")


class Http1(Patience, ZttpProtocol):
    """uvicorn's protocol, whose parser bounds every part of a request in bytes, with bounds in seconds.

    By itself it waits for ever: for a head, for the rest of a body that nobody wants, for a client that does not read.
    It answers what is no request with 400, 408 and 431 in the one error shape, and ignores every offer to upgrade: we
    serve no WebSockets, and HTTP/2 begins with its own preface.
    """

    flow: "_Flow"

    def __init__(self, *args: Any, limits: Limits, **options: Any) -> None:
        super().__init__(*args, **options)
        self.limits = limits
        self._early = self._framing = 0
        self._farewell: Farewell | None = None

    @override
    def connection_made(self, transport: CorkedTransport) -> None:  # type: ignore[override]
        super().connection_made(transport)  # type: ignore[arg-type]
        self.flow = _Flow(transport)  # type: ignore[arg-type]
        self._await_request(self.limits.header_seconds)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        self._unset_keepalive_if_required()
        if self._farewell is not None:
            self._farewell.timer.cancel()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        if self._farewell is not None:
            self._farewell.drop(data)
            return
        before = self.cycle
        if before is not None and not before.more_body and not before.response_complete:
            self._early += len(data)
            self.flow.held = self._early > MOST_EARLY_BYTES
            if self.flow.held:
                self.flow.pause_reading()
        held = len(before.body) if before is not None else 0
        super().data_received(data)
        if self.cycle is not before:
            self._begin()
            held = 0
        elif before is None or before.response_complete:
            self._await_head()
        if self.cycle is not None and self.cycle.more_body:
            self._framing += len(data) - 2 * (len(self.cycle.body) - held)
            if self._framing > MOST_FRAMING_BYTES:
                self._refuse(InvalidRequest("The body comes in chunks that are too small. Send larger ones."))

    def _await_head(self) -> None:
        """Its beginning may have come; dripping does not prolong the wait."""
        if not self.transport.is_closing() and self._farewell is None:
            self._await_request(self.limits.header_seconds)

    def _begin(self) -> None:
        """A request's head is whole."""
        self._request_came()
        self._early = self._framing = 0
        self.flow.held = False
        if self.scope["http_version"] == "1.0":
            self.cycle.conn = _Http10(self.conn)  # type: ignore[assignment]
            self.cycle.keep_alive = False
        elif self.cycle.more_body:
            self.cycle.conn = _Early(self.conn, self.cycle)  # type: ignore[assignment]

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
        answered, self.flow.held = self.cycle, False
        super().on_response_complete()
        if self.transport.is_closing():
            self._await_reading()  # Closing waits until what is left has been read.
        elif answered.more_body:
            # Nobody wants the rest of its body, and the next request would be behind it.
            self._unset_keepalive_if_required()
            self._farewell = Farewell(self.transport, self.loop, None)
        elif self.cycle is not answered:
            self._begin()
        elif self._early:
            self._await_head()

    @override
    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._await_reading()

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reading()

    @override
    def resume_writing(self) -> None:
        self._has_read()
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
    def _give_up(self) -> None:
        self._request_timer = None
        self._refuse(too_slow(self.limits.header_seconds))

    def _refuse(self, error: OnecardError) -> None:
        if self.transport.is_closing() or self._farewell is not None:
            return
        cycle = self.cycle
        answered: OnecardError | None = error
        if cycle is not None and not cycle.response_complete:
            begun = cycle.response_started or not cycle.more_body
            cycle.disconnected = True
            cycle.message_event.set()
            if begun:
                answered = None  # It would be read as that of the request before.
        self._farewell = Farewell(self.transport, self.loop, answered)


class _Flow(FlowControl):
    """Reading goes on only when the server, too, wants more: an app that waits for its client to leave would else take
    in requests without end."""

    held = False

    @override
    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


class _Early:
    """The parser, for a request whose body has not come yet: an answer that does not wait for it says that it is the
    last, and the connection ends when the client has read it."""

    def __init__(self, conn: zttp.H1Connection, cycle: Any) -> None:
        self._conn = conn
        self._cycle = cycle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def send_response(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if self._cycle.more_body:
            headers = [*((name, value) for name, value in headers if name.lower() != b"connection"), _CLOSE]
        self._conn.send_response(status, headers)

    def should_close(self) -> bool:
        return not self._cycle.more_body and self._conn.should_close()


class _Http10:
    """The parser, for an answer to HTTP/1.0, which knows no chunks: what has no length ends with the connection."""

    def __init__(self, conn: zttp.H1Connection) -> None:
        self._conn = conn
        self._unframed = False
        self._body = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def send_response(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._unframed = any(name.lower() == b"transfer-encoding" for name, _ in headers)
        kept = [(name, value) for name, value in headers if name.lower() != b"connection"]
        self._conn.send_response(status, [*kept, _CLOSE])

    def send_data(self, data: bytes) -> None:
        if self._unframed:
            self._body += data
        else:
            self._conn.send_data(data)

    def end_message(self) -> None:
        if not self._unframed:
            self._conn.end_message()

    def data_to_send(self) -> bytes:
        body, self._body = self._body, b""
        if not self._unframed:
            return self._conn.data_to_send()
        return self._conn.data_to_send().replace(b"\r\ntransfer-encoding: chunked", b"", 1) + body
