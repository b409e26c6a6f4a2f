"""From settings to a running app."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata

from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry

from llm_service.bounded import Bounded
from llm_service.bounds import Bounds
from llm_service.fallback.queue import GenerationQueue
from llm_service.fallback.routes import routes, state
from llm_service.fallback.service import Service
from llm_service.fallback.text_model import Params, TextModel, limit_threads
from llm_service.identity import identify
from llm_service.settings import LlmSettings
from onecard import app as base
from onecard import logs
from onecard.auth import KeyGuard
from onecard.cache.identity import Identity
from onecard.gpu.claim import claim
from onecard.gpu.device import choose
from onecard.gpu.measured import memory_metrics
from onecard.health import Part, Readiness
from onecard.identity_header import TellsModel
from onecard.models import ModelFolder

log = logs.logger()


def create_app(settings: LlmSettings, folder: ModelFolder, *, window: int) -> FastAPI:
    """The app; its lifespan loads the model."""

    def load(registry: CollectorRegistry) -> TextModel:
        if settings.llm_cpu_threads:
            limit_threads(settings.llm_cpu_threads)
        device = choose(settings)
        memory_metrics(registry, claim("llm", settings, device), device)
        model = TextModel(folder, device, window)
        warm = Params(max_tokens=2)
        model.generate([0], warm, model.run(warm, lambda _: None))
        log.info("model loaded", model=folder.name, device=device.name, precision=device.precision, window=window)
        return model

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        model = await asyncio.to_thread(load, app.state.registry)
        queue = GenerationQueue(model, most_waiting=settings.llm_queue_requests, registry=app.state.registry)
        identity = await asyncio.to_thread(_identify, folder, model)
        app.state.service = Service(folder, model, queue, created=int(time.time()), identity=identity)
        yield
        await asyncio.to_thread(queue.close)

    app = base.create_app(
        title="Onecard LLM (Transformers)",
        settings=settings,
        lifespan=lifespan,
        routes=routes(),
        ready=_ready,
        guard=KeyGuard(settings.api_key),
        layer=lambda inner: Bounded(inner, bounds=Bounds.of(settings)),
    )
    app.add_middleware(TellsModel, identity=lambda scope: scope["app"].state.service.identity)
    return app


def _identify(folder: ModelFolder, model: TextModel) -> Identity:
    return identify(
        folder,
        engine=", ".join(f"{name} {metadata.version(name)}" for name in ("transformers", "torch")),
        precision=model.device.precision,
        device=model.device.name.partition(":")[0],
        window=model.window,
        more={},
    )


async def _ready(request: Request) -> Readiness:
    alive = state(request).queue.alive
    part = Part(status="ok") if alive else Part(status="down", detail="has failed")
    return Readiness(status=part.status, parts={"engine": part})
