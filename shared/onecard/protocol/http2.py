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
"""Of an answer that wait for room in the client's windows."""
MAX_RESETS = 100
"""Streams that a client may cancel before it is asked to come on another connection: at 256 the parser ends this one,
and with it the streams of others who share it."""
MAX_SMALL_FRAMES = 10_000
"""PING, SETTINGS and bits of a body between two requests."""
SMALL_FRAME_BYTES = 64
NO_ERROR, REFUSED_STREAM = 0, 7


class Http2(ConnectionTimeouts, ZttpH2Protocol):
    """uvicorn's protocol, whose parser bounds headers, frames and streams, with bounds in seconds and in what waits.

    By itself it parks an answer in memory for as long as the client opens no window, goes on reading frames that it
    cannot answer, keeps a connection for pings, and takes requests without Host.
    """

    def __init__(self, *args: Any, limits: ConnectionLimits, **options: Any) -> None:
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
            stream.reset(REFUSED_STREAM)  # The client may send it again elsewhere.
            return
        hosts = sum(name == b"host" for name, _ in event.headers)
        if hosts != 1 or not event.path.isascii() or not event.method.isupper():
            told = "A request names one host, its method is in capitals, and its path is ASCII."
            status, headers, body = error_response(InvalidRequest(told))
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
        """uvicorn's `send` of a stream, in pieces for which there is room at the client."""
        if message["type"] != "http.response.body":
            await send(message)
            return
        body, more = memoryview(message.get("body", b"")), message.get("more_body", False)
        while len(body) > min(cycle.stream.send_window or 0, self.conn.send_window):
            # Also what is left at the end: what is parked then would be lost if the connection ended.
            await send({**message, "body": body[:MAX_PENDING_BYTES], "more_body": True})
            body = body[MAX_PENDING_BYTES:]
            await self._wait_for_window(cycle, MAX_PENDING_BYTES if body or more else 0)
        await send({**message, "body": body, "more_body": more})

    async def _wait_for_window(self, cycle: RequestResponseCycle, most: int) -> None:
        """Wait until at most so many bytes of the answer are parked. A client that takes none is given up."""
        while not cycle.disconnected and (parked := cycle.stream.pending_bytes or 0) > most:
            room = self.loop.create_future()
            self._window_waiters[cycle] = most, room
            try:
                # Not `wait_for`: in Python 3.11 it drops a cancellation that comes when there is room, as at a reset.
                async with asyncio.timeout(self.limits.send_timeout_seconds):
                    await room
            except TimeoutError:
                if (cycle.stream.pending_bytes or 0) >= parked:
                    log.info("client does not read")
                    cycle.abort_stream()
                    cycle.message_event.set()
            finally:
                del self._window_waiters[cycle]

    def _wake_window_waiters(self) -> None:
        for cycle, (most, room) in self._window_waiters.items():
            if not room.done() and (cycle.disconnected or (cycle.stream.pending_bytes or 0) <= most):
                room.set_result(None)

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
            cycle.stream.reset(NO_ERROR)  # Nobody wants the rest of its body.
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
        self.flow.pause_reading()  # Frames that are answered, as PING is, would fill the memory.
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
