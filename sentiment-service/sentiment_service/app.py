"""Creates the app from the settings."""

from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI

from onecard.inference.encoder import add_model_identity, load_shedder, open_encoder, ready
from onecard.web import app as base
from sentiment_service.engine import Classifier
from sentiment_service.routes import routes
from sentiment_service.settings import SentimentSettings


def create_app(settings: SentimentSettings) -> FastAPI:
    """Create the app. The model is loaded in its lifespan, so this returns at once.

    Args:
        settings: The service's settings.

    Returns:
        The app.
    """

    def lifespan(app: FastAPI) -> AbstractAsyncContextManager[None]:
        return open_encoder(app, "sentiment", settings.sentiment_model, settings, Classifier)

    return base.create_app(
        title="Onecard sentiment",
        settings=settings,
        lifespan=lifespan,
        routes=routes(),
        ready=ready,
        load_shedder=load_shedder("/v1/sentiment"),
        middleware=add_model_identity,
    )
