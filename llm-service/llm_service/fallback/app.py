"""Creates the app of the Transformers engine from the settings."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata

from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry

from llm_service.fallback.engine import TransformersEngine
from llm_service.fallback.queue import GenerationQueue
from llm_service.fallback.routes import engine_state, routes
from llm_service.fallback.text_model import SamplingParams, TextModel, limit_threads
from llm_service.limits_middleware import RequestLimitsMiddleware
from llm_service.model_identity import identify
from llm_service.request_limits import RequestLimits
from llm_service.settings import LlmSettings
from onecard import logs
from onecard.gpu.device import select_device
from onecard.gpu.metrics import memory_metrics
from onecard.gpu.reservation import reserve_memory
from onecard.models.folders import ModelFolder
from onecard.models.identity import ModelIdentity
from onecard.web import app as base
from onecard.web.auth import KeyGuard
from onecard.web.health import ComponentHealth, Readiness, stand_in_health, worst_status
from onecard.web.model_identity_middleware import ModelIdentityMiddleware

log = logs.logger()


def create_app(settings: LlmSettings, folder: ModelFolder, *, window: int) -> FastAPI:
    """Create the app. The model is loaded in its lifespan, so this returns at once.

    Args:
        settings: The service's settings.
        folder: The model to serve.
        window: Maximum length of prompt and answer together, in tokens.

    Returns:
        The app.
    """

    def load(registry: CollectorRegistry) -> TextModel:
        if settings.llm_cpu_threads:
            limit_threads(settings.llm_cpu_threads)
        device = select_device(settings)
        memory_metrics(registry, reserve_memory("llm", settings, device), device)
        model = TextModel(folder, device, window)
        # The first generation allocates buffers; no request should wait for that.
        warm_up = SamplingParams(max_tokens=2)
        model.generate([0], warm_up, model.new_generation(warm_up, lambda _: None))
        log.info("model loaded", model=folder.name, device=device.name, precision=device.precision, window=window)
        return model

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        model = await asyncio.to_thread(load, app.state.registry)
        queue = GenerationQueue(model, max_waiting=settings.llm_queue_requests, registry=app.state.registry)
        identity = await asyncio.to_thread(_identify, folder, model)
        app.state.service = TransformersEngine(folder, model, queue, created=int(time.time()), identity=identity)
        yield
        await asyncio.to_thread(queue.close)

    app = base.create_app(
        title="Onecard LLM (Transformers)",
        settings=settings,
        lifespan=lifespan,
        routes=routes(),
        ready=_ready,
        guard=KeyGuard(settings.api_key),
        middleware=lambda inner: RequestLimitsMiddleware(inner, bounds=RequestLimits.from_settings(settings)),
    )
    app.add_middleware(ModelIdentityMiddleware, identity=lambda scope: scope["app"].state.service.identity)
    return app


def _identify(folder: ModelFolder, model: TextModel) -> ModelIdentity:
    return identify(
        folder,
        engine=", ".join(f"{name} {metadata.version(name)}" for name in ("transformers", "torch")),
        precision=model.device.precision,
        device=model.device.name.partition(":")[0],
        window=model.window,
        details={},
    )


async def _ready(request: Request) -> Readiness:
    service = engine_state(request)
    alive = service.queue.alive
    engine = ComponentHealth(status="ok") if alive else ComponentHealth(status="down", detail="has failed")
    parts = {"engine": engine} | stand_in_health(service.folder)
    return Readiness(status=worst_status(parts), parts=parts)
