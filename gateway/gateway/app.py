"""From settings to a running app."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from gateway.answers.serve import STREAMS_SHARE
from gateway.bodies import Counted
from gateway.keys.guard import KeysGuard
from gateway.limits.layer import LimitsLayer
from gateway.metrics import measured_buffers
from gateway.routes import Shortcut, ready, routes
from gateway.settings import GatewaySettings
from gateway.state import open_gateway
from onecard import app as base

READABLE = (
    "age",
    "retry-after",
    "server-timing",
    "x-cache",
    "x-request-id",
    *(f"x-ratelimit-{figure}-{what}" for figure in ("limit", "remaining", "reset") for what in ("requests", "tokens")),
)
"""Headers of an answer that a page of another origin may read."""


def create_app(settings: GatewaySettings) -> FastAPI:
    """The app; its lifespan opens the clients and the cache, and closes them.

    Raises:
        SystemExit: the file of keys cannot be used.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as closing:
            app.state.service = await open_gateway(settings, app.state.registry, buffers, closing)
            yield

    app = base.create_app(
        title="Onecard",
        settings=settings,
        lifespan=lifespan,
        routes=routes(),
        ready=ready,
        json_bodies=False,
        guard=KeysGuard(settings),
        layer=lambda inner: LimitsLayer(Shortcut(inner)),
    )
    buffers = measured_buffers(int(settings.buffer_mb * 1_000_000 * (1 - STREAMS_SHARE)), app.state.registry)
    app.add_middleware(Counted, buffers=buffers, most_bytes=int(settings.max_body_mb * 1_000_000))
    if settings.cors_origins:
        # Outside the edge: a browser asks without a key whether it may send one, and has to read refusals, too.
        # No cookies: a page brings its own key, in any headers that it likes.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=READABLE,
        )
    return app
