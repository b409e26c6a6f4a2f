"""From settings to a running app."""

from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI

from onecard import app as base
from onecard.encoder import gate, open_encoder, ready, tells_model
from sentiment_service.engine import Classifier
from sentiment_service.routes import routes
from sentiment_service.settings import SentimentSettings


def create_app(settings: SentimentSettings) -> FastAPI:
    """The app; its lifespan loads the model."""

    def lifespan(app: FastAPI) -> AbstractAsyncContextManager[None]:
        return open_encoder(app, "sentiment", settings.sentiment_model, settings, Classifier)

    return base.create_app(
        title="Onecard sentiment",
        settings=settings,
        lifespan=lifespan,
        routes=routes(),
        ready=ready,
        gate=gate("/v1/sentiment"),
        layer=tells_model,
    )
