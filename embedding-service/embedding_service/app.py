"""From settings to a running app."""

from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI

from embedding_service.engine import SentenceEncoder
from embedding_service.routes import routes
from embedding_service.settings import EmbeddingSettings
from onecard.inference.encoder import add_model_identity, load_shedder, open_encoder, ready
from onecard.web import app as base


def create_app(settings: EmbeddingSettings) -> FastAPI:
    """The app; its lifespan loads the model."""

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
