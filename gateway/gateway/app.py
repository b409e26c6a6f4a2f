"""From settings to a running app."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from typing_extensions import override

from gateway.answers.serve import STREAMS_SHARE
from gateway.bodies import Counted
from gateway.keys.guard import KeysGuard
from gateway.limits.layer import LimitsLayer
from gateway.metrics import measured_buffers
from gateway.routes import RELAYED, Shortcut, ready, routes
from gateway.settings import GatewaySettings
from gateway.state import gate, open_gateway
from onecard.errors import InvalidRequest, render
from onecard.web import app as base


class Cors(CORSMiddleware):
    """Refuses a preflight in the one error shape."""

    @override
    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        error = InvalidRequest(f"{bytes(response.body).decode()}: CORS_ORIGINS does not allow pages to ask this.")
        _, headers, body = render(error)
        del response.headers["content-length"]
        return Response(body, 400, {**response.headers, **headers, "x-request-id": uuid.uuid4().hex})


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
        load_shedder=gate,
        middleware=lambda inner: LimitsLayer(Shortcut(inner), settings.reserved_answer_tokens),
    )
    buffers = measured_buffers(int(settings.buffer_mb * 1_000_000 * (1 - STREAMS_SHARE)), app.state.registry)
    app.add_middleware(Counted, buffers=buffers, most_bytes=int(settings.max_body_mb * 1_000_000))
    if settings.cors_origins:
        # Outside the edge: a browser asks without a key whether it may send one, and has to read refusals, too.
        # No cookies: a page brings its own key, in any headers that it likes.
        app.add_middleware(
            Cors,
            allow_origins=settings.cors_origins,
            allow_methods=sorted({"GET", "HEAD", *(relayed.method for relayed in RELAYED)}),
            allow_headers=["*"],
            expose_headers=READABLE,
        )
    return app
