"""Creates the app from the settings."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from onecard.web import app as base
from review_service.api.routes import NDJSON, ready, routes
from review_service.settings import ReviewSettings
from review_service.state import open_service


def create_app(settings: ReviewSettings) -> FastAPI:
    """Create the app. Its lifespan opens and closes the store and the clients of the model services.

    Args:
        settings: The service's settings.

    Returns:
        The app.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as closing:
            app.state.service = await open_service(settings, app.state.registry, closing)
            yield

    return base.create_app(
        title="Onecard review",
        settings=settings,
        lifespan=lifespan,
        routes=routes(),
        ready=ready,
        raw_types=frozenset({NDJSON.encode()}),
    )
