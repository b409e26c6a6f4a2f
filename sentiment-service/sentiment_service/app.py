"""From settings to a running app."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from onecard import app as base
from onecard.encoder import open_encoder, ready
from sentiment_service.engine import Classifier
from sentiment_service.routes import routes
from sentiment_service.settings import SentimentSettings


def create_app(settings: SentimentSettings) -> FastAPI:
    """The app; its lifespan loads the model."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with open_encoder("sentiment", settings.sentiment_model, settings, Classifier) as encoder:
            app.state.service = encoder
            yield

    return base.create_app(
        title="Onecard sentiment", settings=settings, lifespan=lifespan, routes=routes(), ready=ready
    )
