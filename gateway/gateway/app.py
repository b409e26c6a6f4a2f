"""From settings to a running app."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from gateway.keys.guard import KeysGuard
from gateway.limits.admission import Quota
from gateway.limits.layer import LimitsLayer
from gateway.limits.limits import open_limits
from gateway.routes import ready, routes
from gateway.scopes import Scopes
from gateway.settings import GatewaySettings
from gateway.state import open_gateway
from onecard import app as base

READABLE = (
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
    defaults = Quota(settings.requests_per_minute, settings.tokens_per_minute)
    # Nobody is asked to run a Redis for limits that there cannot be.
    address = None if settings.api_keys_file is None and defaults.is_empty else settings.redis_address()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as closing:
            app.state.service = await open_gateway(settings, app.state.registry, closing)
            app.state.scopes = Scopes()
            app.state.limits = await closing.enter_async_context(open_limits(defaults, address, app.state.registry))
            yield

    app = base.create_app(
        title="Onecard",
        settings=settings,
        lifespan=lifespan,
        routes=routes(),
        ready=ready,
        json_bodies=False,
        guard=KeysGuard(settings),
        layer=LimitsLayer,
    )
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
