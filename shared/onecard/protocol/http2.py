"""HTTP/2 on one connection."""

import asyncio
import functools
from collections.abc import Generator
from typing import Any

import zttp
from typing_extensions import override
from uvicorn.protocols.http.zttp_h2_impl import RequestResponseCycle, ZttpH2Protocol

from onecard.errors import InvalidRequest
from onecard.protocol.limits import ConnectionLimits
from onecard.protocol.timeouts import ConnectionTimeouts, error_response, log
from onecard.protocol.write_coalescing import CoalescingTransport

MAX_PENDING_BYTES = 64 * 1024
"""Most bytes of a response that wait for the client's flow-control window."""
MAX_RESETS = 100
"""Streams that a client may cancel before it has to open another connection: at 256 the parser closes this one, and
with it the streams of others who share it."""
MAX_SMALL_FRAMES = 10_000
"""Most PING, SETTINGS and small DATA frames between two requests."""
SMALL_FRAME_BYTES = 64
NO_ERROR, REFUSED_STREAM = 0, 7


class Http2(ConnectionTimeouts, ZttpH2Protocol):
    """uvicorn's protocol with limits on time and buffered bytes; its parser already limits headers, frames and streams.

    Without these limits it would buffer a response for as long as the client's window is closed, read frames that it
    cannot answer, keep a connection alive on pings alone, and accept requests without Host.
    """

    def __init__(self, *args: Any, limits: ConnectionLimits, **options: Any) -> None:
        """Prepare a connection; `ConnectionProtocol` calls this.

        Args:
            args: uvicorn's.
            limits: shared by all connections of the server.
            options: uvicorn's.
        """
        super().__init__(*args, **options)
        self.limits = limits
        self._resets = self._small_frames = 0
        self._window_waiters: dict[RequestResponseCycle, tuple[int, asyncio.Future[None]]] = {}

    @override
    def connection_made(self, transport: CoalescingTransport) -> None:  # type: ignore[override]
        super().connection_made(transport)  # type: ignore[arg-type]
        self._start_request_timer(self.limits.header_timeout_seconds)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        super().connection_lost(exc)
        self._wake_window_waiters()

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wake_window_waiters()
        if self.transport.is_closing():
            self._stop_timers()
            self._start_send_timer()
        elif self.cycles:
            self._stop_request_timer()
        else:
            self._start_request_timer(self.timeout_keep_alive)

    @override
    def events(self) -> Generator[zttp.Event]:
        for event in super().events():
            if isinstance(event, zttp.Ping | zttp.Settings) or (
                isinstance(event, zttp.Data) and len(event.data) < SMALL_FRAME_BYTES
            ):
                self._small_frames += 1
                if self._small_frames > MAX_SMALL_FRAMES:
                    raise zttp.RemoteProtocolError("too many small frames")
            yield event

    @override
    def handle_request(self, event: zttp.Request) -> None:
        stream = self.conn.stream(event.stream_id)
        if self.shutdown_requested:
            stream.reset(REFUSED_STREAM)  # The client may retry it on another connection.
            return
        hosts = sum(name == b"host" for name, _ in event.headers)
        if hosts != 1 or not event.path.isascii() or not event.method.isupper():
            message = "A request names one host, its method is in capitals, and its path is ASCII."
            status, headers, body = error_response(InvalidRequest(message))
            stream.send_response(status, [(name.encode(), value.encode()) for name, value in headers.items()])
            stream.send_data(body)
            stream.end_message()
            return
        super().handle_request(event)
        cycle = self.cycles[event.stream_id]
        cycle.send = functools.partial(self._send_with_backpressure, cycle, cycle.send)  # type: ignore[method-assign]
        self._small_frames = 0
        if event.end_stream:
            cycle.more_body = False
            cycle.message_event.set()

    async def _send_with_backpressure(self, cycle: RequestResponseCycle, send: Any, message: Any) -> None:
        """Call uvicorn's `send` of a stream, with the body in pieces that fit into the client's window."""
        if message["type"] != "http.response.body":
            await send(message)
            return
        body, more = memoryview(message.get("body", b"")), message.get("more_body", False)
        while body:  # Not "while it does not fit": a window may be negative, into which not even an empty body fits.
            piece, body = body[:MAX_PENDING_BYTES], body[MAX_PENDING_BYTES:]
            await send({**message, "body": piece, "more_body": True})
            await self._wait_for_window(cycle, MAX_PENDING_BYTES)
        if not more:
            # What is only buffered is under no send timeout, and would be lost if the connection closed.
            await self._wait_for_window(cycle, 0)
            await send({**message, "body": b"", "more_body": False})

    async def _wait_for_window(self, cycle: RequestResponseCycle, max_pending: int) -> None:
        """Wait until at most this much of the response is buffered; abort the stream if the client takes none."""
        while not cycle.disconnected and (pending := cycle.stream.pending_bytes or 0) > max_pending:
            window_opened = self.loop.create_future()
            self._window_waiters[cycle] = max_pending, window_opened
            try:
                # Not `wait_for`: in Python 3.11 it loses a cancellation that comes together with the result, as at a
                # reset.
                async with asyncio.timeout(self.limits.send_timeout_seconds):
                    await window_opened
            except TimeoutError:
                if (cycle.stream.pending_bytes or 0) >= pending:
                    log.info("client does not read")
                    cycle.abort_stream()
                    cycle.message_event.set()
            finally:
                del self._window_waiters[cycle]

    def _wake_window_waiters(self) -> None:
        for cycle, (max_pending, window_opened) in self._window_waiters.items():
            if not window_opened.done() and (cycle.disconnected or (cycle.stream.pending_bytes or 0) <= max_pending):
                window_opened.set_result(None)

    @override
    def handle_rst_stream(self, event: zttp.RstStream) -> None:
        self._resets += 1
        super().handle_rst_stream(event)
        if self._resets == MAX_RESETS:
            self.shutdown()

    @override
    def on_response_complete(self, stream_id: int) -> None:
        cycle = self.cycles.get(stream_id)
        if cycle is not None and cycle.response_complete and cycle.more_body and not self.transport.is_closing():
            cycle.stream.reset(NO_ERROR)  # The rest of the request's body is unwanted.
            self.flush()
        super().on_response_complete(stream_id)
        if not self.cycles and not self.transport.is_closing():
            self._start_request_timer(self.timeout_keep_alive)

    @override
    def resume_reading_if_idle(self) -> None:
        if not self.flow.write_paused:
            super().resume_reading_if_idle()

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self.flow.pause_reading()  # Replies to frames such as PING would pile up in memory.
        self._start_send_timer()

    @override
    def resume_writing(self) -> None:
        self._stop_send_timer()
        super().resume_writing()
        self.resume_reading_if_idle()

    @override
    def shutdown(self) -> None:
        if not self.shutdown_requested and self.cycles and not self.transport.is_closing():
            self.conn.close()
            self.flush()
        super().shutdown()

    @override
    def _close_connection(self) -> None:
        super()._close_connection()
        self._stop_request_timer()
        self._start_send_timer()

    @override
    def _on_request_timeout(self) -> None:
        self._request_timer = None
        if not self.cycles:
            self._close_connection()
