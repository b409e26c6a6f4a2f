"""Creates the app from the settings."""

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from onecard.gpu.device import Device
from onecard.inference.encoder import add_model_identity, load_shedder, ready
from onecard.inference.opening import open_encoder
from onecard.inference.served_engine import EncoderModel
from onecard.models.folders import ModelFolder
from onecard.web import app as base
from sentiment_service.probabilities import ProbabilityKind
from sentiment_service.routes import routes
from sentiment_service.settings import SentimentSettings

if TYPE_CHECKING:
    from sentiment_service.engine import Classifier


def _load_torch(folder: ModelFolder, device: Device) -> "Classifier":
    """Import torch, which a service with a built engine never does, and load the model."""
    from sentiment_service.engine import Classifier

    return Classifier(folder, device)


MODEL = EncoderModel("sentiment", _load_torch, lambda _: ProbabilityKind())


def create_app(settings: SentimentSettings) -> FastAPI:
    """Create the app. The model is loaded in its lifespan, so this returns at once.

    Args:
        settings: The service's settings.

    Returns:
        The app.
    """

    def lifespan(app: FastAPI) -> AbstractAsyncContextManager[None]:
        return open_encoder(app, MODEL, settings.sentiment_model, settings)

    return base.create_app(
        title="Onecard sentiment",
        settings=settings,
        lifespan=lifespan,
        routes=routes(),
        ready=ready,
        load_shedder=load_shedder("/v1/sentiment"),
        middleware=add_model_identity,
    )
