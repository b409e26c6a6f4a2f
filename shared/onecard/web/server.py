"""Runs an app under uvicorn, configured for a public server."""

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
from onecard.web.keep_alive import KEEP_ALIVE_SECONDS

GC_THRESHOLD = 50_000
"""New container objects that trigger a collection of the youngest generation. Python's default of 700 is reached after
two or three requests."""
MAX_OPEN_FILES = 65_536
"""Limit of open files that a service sets for itself, if the system allows it."""


def protocol_factory(settings: ServiceSettings, registry: CollectorRegistry) -> Callable[..., ConnectionProtocol]:
    """Make uvicorn's `http` option: our protocol with the limits of the settings.

    Args:
        settings: of the service.
        registry: gets the metrics of connections.

    Returns:
        A factory of protocols.
    """
    limits = ConnectionLimits.from_settings(settings, max_open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    registry.register(limits)
    return functools.partial(ConnectionProtocol, limits=limits)


def _raise_file_limit() -> None:
    """Raise the limit of open files: a relayed connection needs two, and shells and supervisors often allow 1,024."""
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = MAX_OPEN_FILES if hard_limit == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard_limit)
    if soft_limit != resource.RLIM_INFINITY and soft_limit < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard_limit))


def _bind(host: str, port: int) -> socket.socket:
    """Bind the socket before any model is loaded, so that a port in use shows at once.

    Returns:
        The bound socket.

    Raises:
        SystemExit: the address is not available.
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
    """Refuse to expose a server without authentication.

    Args:
        settings: of the service.
        other_keys: whether there are keys besides `API_KEY`.

    Raises:
        SystemExit: `HOST` is not loopback, and no key is required.
    """
    try:
        is_loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        is_loopback = settings.host == "localhost"
    is_guarded = settings.api_key is not None or other_keys or settings.allow_no_key
    if not is_loopback and not is_guarded:
        raise SystemExit(
            f"HOST={settings.host} is reachable from outside, and there is no API_KEY. "
            "Set API_KEY (16 characters or more), or ALLOW_NO_KEY=true if something else guards this address."
        )


def _tune_garbage_collector() -> None:
    """Keep Python's cyclic garbage collector from delaying requests.

    Objects from before the first request (a million with torch) live to the end, so they are excluded from collections.
    With 1,300 requests waiting, an encoder's event loop spent 58 % of its time searching them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)


class _StartupMiddleware:
    """ASGI middleware around the lifespan.

    It keeps the message of a SystemExit during startup: Starlette would log its traceback, and uvicorn would exit
    without a message. After startup it tunes the garbage collector.
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
    """Serve an app until SIGTERM or SIGINT, then finish accepted requests for at most `drain_seconds`.

    Args:
        app: from `create_app`.
        service: its name in logs.
        port: to listen on.
        settings: host, limits and log level.

    Raises:
        SystemExit: the service did not start; with a one-line reason if it gave one.
    """
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
    with contextlib.suppress(SystemExit):  # uvicorn raises its own, with an exit code of its own.
        server.run(sockets=[listener])
    if not server.started:
        logging.shutdown()  # Flush the logs first: the interpreter prints the reason last.
        raise SystemExit(startup.startup_error or 1)
