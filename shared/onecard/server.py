"""Run an app under uvicorn, with the manners that a public server needs."""

import asyncio
import contextlib
import functools
import gc
import ipaddress
import resource
import socket
import sys
import uuid
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from onecard import logs
from onecard.cork import CorkedTransport, unread_bytes
from onecard.errors import HeadersTooLarge, InvalidRequest, OnecardError, SlowRequest, render
from onecard.settings import ServiceSettings

log = logs.logger()

COLLECT_EVERY = 50_000
"""New containers after which the youngest are searched for cycles. Python's 700 are those of two or three requests."""
KEEP_ALIVE_SECONDS = 75
"""How long an idle connection is kept: longer than clients pool theirs, so that they close first."""
MOST_FILES = 65_536
"""Files that a service allows itself to have open, if the system lets it."""
MAX_HEAD_BYTES = 64 * 1024
"""Most bytes of a request's line and headers that are kept while they are incomplete."""


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, which by itself waits for ever for a request's headers, takes any number, and waits
    for ever for a client that does not read.

    Answers the first two with 408 and 431, and what is not HTTP with 400, all in the one error shape. Who does not read
    is cut off: until then its answer holds a place at a replica.
    """

    def __init__(self, *args: Any, header_seconds: float, send_seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._header_seconds = header_seconds
        self._send_seconds = send_seconds
        self._header_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._head_bytes: int | None = None
        """Received of a head that is incomplete; None outside of one."""

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = CorkedTransport(transport, self.loop)  # type: ignore[assignment]
        self._arm()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._read_on()
        super().connection_lost(exc)

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    @override
    def resume_writing(self) -> None:
        self._read_on()
        super().resume_writing()

    @override
    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._expect_reading()  # Closing waits until what is left has been read.

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_bytes is None:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadersTooLarge(f"The request's headers are over {MAX_HEAD_BYTES // 1024} KiB. Send fewer."))

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        # The headers of a pipelined request may wait: they come behind an answer that is still being written.
        if self._header_timer is None and not self._answering:
            self._arm()

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        # uvicorn would put what trails a chunked body among the headers, where no proxy before us has looked at it.
        if self._head_bytes is not None:
            super().on_header(name, value)

    @override
    def on_headers_complete(self) -> None:
        self._disarm()
        self._head_bytes = None
        super().on_headers_complete()

    @override
    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequest("This is not a valid HTTP/1.1 request."))

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _reading_body(self) -> bool:
        """The request that is being received is also the one to be answered next, and no answer to it has begun."""
        return self.cycle is not None and self.cycle.more_body and not self.cycle.response_started

    def _arm(self) -> None:
        self._header_timer = self.loop.call_later(self._header_seconds, self._give_up)

    def _disarm(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _read_on(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _expect_reading(self) -> None:
        if self.transport.get_write_buffer_size() and self._send_timer is None:
            left = unread_bytes(self.transport)
            self._send_timer = self.loop.call_later(self._send_seconds, self._look_at_reading, left)

    def _look_at_reading(self, before: int) -> None:
        self._send_timer = None
        if unread_bytes(self.transport) < before:
            self._expect_reading()  # It reads, if slowly.
            return
        log.info("client does not read")
        self.transport.abort()

    def _give_up(self) -> None:
        self._header_timer = None
        self._refuse(SlowRequest(f"The request's headers did not arrive within {self._header_seconds:g} s."))

    def _refuse(self, error: OnecardError) -> None:
        if self.transport.is_closing():
            return
        if not self._answering or self._reading_body:
            status, headers, body = render(error)
            headers["x-request-id"] = uuid.uuid4().hex
            log.info("request refused", status=status, request_id=headers["x-request-id"])
            lines = [f"HTTP/1.1 {status} Refused", *(f"{name}: {value}" for name, value in headers.items())]
            head = "\r\n".join([*lines, f"content-length: {len(body)}", "connection: close", "", ""])
            self.transport.write(head.encode() + body)
        self.transport.close()


def protocol(settings: ServiceSettings) -> Callable[..., GuardedProtocol]:
    """The protocol with the time limits of `settings`, for uvicorn's `http`."""
    return functools.partial(
        GuardedProtocol, header_seconds=settings.header_timeout_seconds, send_seconds=settings.send_timeout_seconds
    )


def _allow_many_files() -> None:
    """A connection is an open file, and a relayed one two; shells and supervisors often allow 1,024."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if most == resource.RLIM_INFINITY else min(MOST_FILES, most)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket, before any model is loaded: a port that is taken shows at once.

    Raises:
        SystemExit: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise SystemExit(
            f"cannot listen on {host}:{port}: {error.strerror}. Stop what uses it, or set another port."
        ) from None
    return listener


def require_key_in_public(settings: ServiceSettings, *, other_keys: bool = False) -> None:
    """Refuse to open an unguarded server to the world.

    Args:
        other_keys: something besides `API_KEY` guards it.

    Raises:
        SystemExit: `HOST` is not loopback, and nothing guards the server.
    """
    try:
        loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        loopback = settings.host == "localhost"
    guarded = settings.api_key is not None or other_keys or settings.allow_no_key
    if not loopback and not guarded:
        raise SystemExit(
            f"HOST={settings.host} is reachable from outside, and there is no API_KEY. "
            "Set API_KEY (16 characters or more), or ALLOW_NO_KEY=true if something else guards this address."
        )


def _tune_collector() -> None:
    """Keep Python's cyclic collector out of the way of requests.

    What was made before the first request (a million objects where torch is) stays to the end: it is not searched
    again. With 1,300 requests waiting, an encoder's event loop spent 58 % of its time searching it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY, 20, 20)


class _Startup:
    """ASGI layer round the lifespan.

    It keeps a refusal to start (a SystemExit) as the one line that it is: Starlette would send its traceback to the
    log, and uvicorn would exit without a word about it. After a start it tunes the garbage collector.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.refusal: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def settle(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and isinstance(sys.exc_info()[1], SystemExit):
                message = {"type": message["type"]}
            elif message["type"] == "lifespan.startup.complete":
                _tune_collector()
            await send(message)

        try:
            await self._app(scope, receive, settle)
        except SystemExit as refusal:
            self.refusal = str(refusal)


def run(app: ASGIApp, *, service: str, port: int, settings: ServiceSettings) -> None:
    """Serve `app` until SIGTERM or SIGINT, then finish what was accepted, for at most `drain_seconds`."""
    logs.configure(service, settings.log_level)
    _allow_many_files()
    listener = _bind(settings.host, port)
    options: dict[str, Any] = {
        "http": protocol(settings),
        "loop": "uvloop",
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": settings.drain_seconds,
    }
    startup = _Startup(app)
    server = uvicorn.Server(uvicorn.Config(startup, **options))
    with contextlib.suppress(SystemExit):  # uvicorn's own, with a code of its own
        server.run(sockets=[listener])
    if not server.started:
        raise SystemExit(startup.refusal or 1)
