"""Builds the app from the settings."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp
from typing_extensions import override

from gateway.request_body import RequestBodyBudget
from gateway.router import RelayRouter, ready, router
from gateway.routes import ROUTES, RouteTable
from gateway.settings import STREAMS_SHARE, GatewaySettings
from gateway.state import load_shedding_gate, open_gateway
from gateway.telemetry.metrics import measured_buffers
from onecard.errors import InvalidRequest, render
from onecard.web import app as base
from onecard.web.auth import Guard


class Cors(CORSMiddleware):
    """CORS middleware that refuses a preflight request with the gateway's usual error body."""

    @override
    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        error = InvalidRequest(f"{bytes(response.body).decode()}: CORS_ORIGINS does not allow pages to ask this.")
        _, headers, body = render(error)
        del response.headers["content-length"]
        return Response(body, 400, {**response.headers, **headers, "x-request-id": uuid.uuid4().hex})


EXPOSED_HEADERS = (
    "age",
    "retry-after",
    "server-timing",
    "x-cache",
    "x-request-id",
    *(f"x-ratelimit-{figure}-{what}" for figure in ("limit", "remaining", "reset") for what in ("requests", "tokens")),
)
"""Response headers that pages of other origins may read."""


def create_app(settings: GatewaySettings, table: RouteTable = ROUTES) -> FastAPI:
    """Build the app. Its lifespan opens connections and cache, and closes them.

    Args:
        settings: decide which features there are. The code of a feature that is off is not imported.
        table: the relayed routes; tests use others.

    Returns:
        The app.

    Raises:
        SystemExit: the key file cannot be used.
    """
    if not settings.cache_enabled:
        table = table.without_cache_keys()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as closing:
            app.state.service = await open_gateway(settings, table, app.state.registry, buffers, closing)
            yield

    app = base.create_app(
        title="Onecard",
        settings=settings,
        lifespan=lifespan,
        routes=router(table),
        ready=ready,
        json_bodies=False,
        guard=_guard(settings),
        load_shedder=lambda app: load_shedding_gate(app, table),
        middleware=lambda inner: _limited(RelayRouter(inner, table), settings, table),
    )
    buffers_bytes = int(settings.buffer_mb * 1_000_000 * (1 - STREAMS_SHARE))
    max_body_bytes = int(settings.max_body_mb * 1_000_000)
    # With several keys each leaves space to the others, beyond that for one largest body.
    min_share_bytes = max_body_bytes if settings.api_keys_file is not None else None
    buffers = measured_buffers(buffers_bytes, app.state.registry, min_share_bytes=min_share_bytes)
    app.add_middleware(RequestBodyBudget, buffers=buffers, max_bytes=max_body_bytes)
    if settings.cors_origins:
        # Outside the request middleware, since browsers send preflight requests without a key and have to be able to
        # read errors. Without cookies: a page sends its own key, and any headers that it needs.
        app.add_middleware(
            Cors,
            allow_origins=settings.cors_origins,
            allow_methods=sorted({"GET", "HEAD", *(route.method for route in table)}),
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    return app


def _guard(settings: GatewaySettings) -> Guard | None:
    """The guard that checks keys; None if anyone may call."""
    if not settings.asks_for_keys:
        return None
    from gateway.keys.guard import KeysGuard

    return KeysGuard(settings)


def _limited(app: ASGIApp, settings: GatewaySettings, table: RouteTable) -> ASGIApp:
    """Wrap the app in the rate limits, if any key may have some."""
    if not settings.has_limits:
        return app
    from gateway.limits.middleware import RateLimitMiddleware

    return RateLimitMiddleware(app, table, settings.reserved_answer_tokens)
