"""Run an app under uvicorn, with the manners that a public server needs."""

import contextlib
import functools
import gc
import ipaddress
import logging
import resource
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onecard import logs
from onecard.protocol.connection import ConnectionProtocol
from onecard.protocol.limits import ConnectionLimits
from onecard.settings import ServiceSettings

GC_THRESHOLD = 50_000
"""New containers after which the youngest are searched for cycles. Python's 700 are those of two or three requests."""
KEEP_ALIVE_SECONDS = 75
"""How long an idle connection is kept: longer than clients pool theirs, so that they close first."""
MAX_OPEN_FILES = 65_536
"""Files that a service allows itself to have open, if the system lets it."""


def protocol_factory(settings: ServiceSettings, registry: CollectorRegistry) -> Callable[..., ConnectionProtocol]:
    """The protocol with the limits of `settings`, for uvicorn's `http`; `registry` shows its connections."""
    limits = ConnectionLimits.from_settings(settings, files=resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    registry.register(limits)
    return functools.partial(ConnectionProtocol, limits=limits)


def _raise_file_limit() -> None:
    """A connection is an open file, and a relayed one two; shells and supervisors often allow 1,024."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if most == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, most)
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


def _tune_garbage_collector() -> None:
    """Keep Python's cyclic collector out of the way of requests.

    What was made before the first request (a million objects where torch is) stays to the end: it is not searched
    again. With 1,300 requests waiting, an encoder's event loop spent 58 % of its time searching it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)


class _StartupMiddleware:
    """ASGI layer round the lifespan.

    It keeps a refusal to start (a SystemExit) as the one line that it is: Starlette would send its traceback to the
    log, and uvicorn would exit without a word about it. After a start it tunes the garbage collector.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.startup_error: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def settle(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and isinstance(sys.exc_info()[1], SystemExit):
                message = {"type": message["type"]}
            elif message["type"] == "lifespan.startup.complete":
                _tune_garbage_collector()
            await send(message)

        try:
            await self._app(scope, receive, settle)
        except SystemExit as refusal:
            self.startup_error = str(refusal)


def run(app: FastAPI, *, service: str, port: int, settings: ServiceSettings) -> None:
    """Serve `app` until SIGTERM or SIGINT, then finish what was accepted, for at most `drain_seconds`."""
    logs.configure(service, settings.log_level)
    _raise_file_limit()
    listener = _bind(settings.host, port)
    options: dict[str, Any] = {
        "http": protocol_factory(settings, app.state.registry),
        "loop": "uvloop",
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "ws": "none",
        "forwarded_allow_ips": list(settings.trusted_proxies),
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": settings.drain_seconds,
    }
    startup = _StartupMiddleware(app)
    server = uvicorn.Server(uvicorn.Config(startup, **options))
    with contextlib.suppress(SystemExit):  # uvicorn's own, with a code of its own
        server.run(sockets=[listener])
    if not server.started:
        logging.shutdown()  # The reason, which the interpreter prints, comes last.
        raise SystemExit(startup.startup_error or 1)
