"""Creates the app from the settings."""

from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI

from embedding_service.engine import SentenceEncoder
from embedding_service.routes import routes
from embedding_service.settings import EmbeddingSettings
from onecard.inference.encoder import add_model_identity, load_shedder, open_encoder, ready
from onecard.web import app as base


def create_app(settings: EmbeddingSettings) -> FastAPI:
    """Create the app. The model is loaded in its lifespan, so this returns at once.

    Args:
        settings: The service's settings.

    Returns:
        The app.
    """

    def lifespan(app: FastAPI) -> AbstractAsyncContextManager[None]:
        return open_encoder(app, "embedding", settings.embedding_model, settings, SentenceEncoder)

    return base.create_app(
        title="Onecard embedding",
        settings=settings,
        lifespan=lifespan,
        routes=routes(),
        ready=ready,
        load_shedder=load_shedder("/v1/embeddings"),
        middleware=add_model_identity,
    )
