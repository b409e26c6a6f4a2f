"""Creates the app from the settings."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from embedding_service.engine import SentenceEncoder
from embedding_service.prompts import read_prompts
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

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_encoder(app, "embedding", settings.embedding_model, settings, SentenceEncoder):
            app.state.prompts = read_prompts(app.state.service.model.path, settings)
            yield

    return base.create_app(
        title="Onecard embedding",
        settings=settings,
        lifespan=lifespan,
        routes=routes(),
        ready=ready,
        load_shedder=load_shedder("/v1/embeddings"),
        middleware=add_model_identity,
    )
