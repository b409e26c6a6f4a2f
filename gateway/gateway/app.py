"""From settings to a running app."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from gateway.routes import ready, routes
from gateway.settings import GatewaySettings
from gateway.upstreams import connect
from onecard import app as base


def create_app(settings: GatewaySettings) -> FastAPI:
    """The app; its lifespan opens the clients and closes them."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as closing:
            app.state.service = await connect(settings, closing)
            yield

    return base.create_app(
        title="Onecard",
        settings=settings,
        lifespan=lifespan,
        routes=routes(),
        ready=ready,
        json_bodies=False,
        keyed=True,
    )
