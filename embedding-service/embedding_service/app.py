"""Creates the app from the settings."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from embedding_service.prompts import read_prompts
from embedding_service.routes import routes
from embedding_service.settings import EmbeddingSettings
from embedding_service.vectors import VectorKind, Vectors
from onecard.gpu.device import Device
from onecard.inference.encoder import add_model_identity, load_shedder, ready
from onecard.inference.opening import open_encoder
from onecard.inference.served_engine import EncoderModel
from onecard.models.folders import ModelFolder
from onecard.web import app as base

if TYPE_CHECKING:
    from embedding_service.engine import SentenceEncoder


def _load_torch(folder: ModelFolder, device: Device) -> "SentenceEncoder":
    """Import torch, which a service with a built engine never does, and load the model."""
    from embedding_service.engine import SentenceEncoder

    return SentenceEncoder(folder, device)


MODEL = EncoderModel("embedding", _load_torch, VectorKind)


def create_app(settings: EmbeddingSettings, model: EncoderModel[Vectors] = MODEL) -> FastAPI:
    """Create the app. The model is loaded in its lifespan, so this returns at once.

    Args:
        settings: The service's settings.
        model: How its model is loaded; tests load one with faults.

    Returns:
        The app.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        def prompts_of(folder: ModelFolder) -> tuple[tuple[str, str], ...]:
            prompts = app.state.prompts = read_prompts(folder.path, settings)
            return prompts.details()

        async with open_encoder(app, model, settings.embedding_model, settings, prompts_of):
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
