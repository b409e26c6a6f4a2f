"""Creates the app of the Transformers engine from the settings."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib import metadata

from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry

from llm_service.canary import CANARY_TEXT, CanaryReference
from llm_service.fallback.engine import TransformersEngine
from llm_service.fallback.generation import SamplingParams
from llm_service.fallback.queue import GenerationQueue
from llm_service.fallback.routes import engine_state, routes
from llm_service.fallback.text_model import TextModel, limit_threads
from llm_service.limits_middleware import RequestLimitsMiddleware
from llm_service.model_identity import identify
from llm_service.request_limits import RequestLimits
from llm_service.settings import LlmSettings
from onecard import logs
from onecard.errors import InternalError
from onecard.gpu.device import Device, half_precision, select_device
from onecard.gpu.metrics import GpuCollector, memory_metrics
from onecard.gpu.nvml import NvmlGpu, visible_gpu
from onecard.gpu.reservation import reserve_memory
from onecard.gpu.stages import stage
from onecard.models.folders import ModelFolder
from onecard.models.identity import ModelIdentity
from onecard.web import app as base
from onecard.web.auth import KeyGuard
from onecard.web.canary import Canary, CanaryFailed
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
        device = _device(settings)
        reservation = reserve_memory("llm", settings, device)
        memory_metrics(registry, reservation, device)
        _card_metrics(registry, settings, device)
        with stage("load", device):
            model = TextModel(folder, device, window, settings, reservation.planned_bytes)
        with stage("warm-up", device):
            # The first generation allocates buffers; no request should wait for that.
            model.decoder.run([model.new_generation([0], SamplingParams(max_tokens=2), lambda _: None)])
        log.info("model loaded", model=folder.name, device=device.name, precision=device.precision, window=window)
        return model

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        model = await asyncio.to_thread(load, app.state.registry)
        queue = GenerationQueue(model, max_waiting=settings.llm_queue_requests, registry=app.state.registry)
        identity = await asyncio.to_thread(_identify, folder, model)
        compute = canary_computation(model, queue)
        try:
            await compute()
        except CanaryFailed as failure:
            raise SystemExit(
                f"model {folder.name} {failure}. Its files are damaged, or USE_FP16=false helps."
            ) from None
        canary = _canary(compute, queue, settings, app.state.registry)
        app.state.service = TransformersEngine(folder, model, queue, int(time.time()), identity, canary)
        canary.start()
        yield
        await canary.close()
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


def _card_metrics(registry: CollectorRegistry, settings: LlmSettings, device: Device) -> None:
    """The gauges of the whole GPU; with vLLM, its server exports them."""
    if not device.name.startswith("cuda"):
        return
    if gpu := NvmlGpu.open(visible_gpu(settings.gpu_device, os.environ)):
        registry.register(GpuCollector(gpu.usage))


def _device(settings: LlmSettings) -> Device:
    """As for the encoders, but in bfloat16 on a GPU that has it."""
    device = select_device(settings)
    if not device.name.startswith("cuda") or device.precision == "float32":
        return device
    if settings.llm_dtype != "auto":
        return replace(device, precision=settings.llm_dtype)
    return replace(device, precision=half_precision(device.compute_capability))


def canary_computation(model: TextModel, queue: GenerationQueue) -> Callable[[], Awaitable[None]]:
    """Make what computes a canary on the model.

    Args:
        model: The loaded model.
        queue: In front of it.

    Returns:
        A function that raises CanaryFailed if the model fails or its answer is not plausible.
    """
    tokens, reference = model.encode(CANARY_TEXT, special=False), CanaryReference()

    async def compute() -> None:
        try:
            logprobs = await queue.logprobs(tokens)
        except InternalError:
            raise CanaryFailed("fails on a canary") from None
        reference.check(logprobs)

    return compute


def _canary(
    compute: Callable[[], Awaitable[None]], queue: GenerationQueue, settings: LlmSettings, registry: CollectorRegistry
) -> Canary:
    def end_process(_: str) -> None:
        queue.give_up()
        os.kill(os.getpid(), signal.SIGTERM)  # To be restarted by its supervisor.

    return Canary(
        compute,
        lambda: queue.progress,
        interval_seconds=settings.canary_seconds,
        hang_seconds=settings.engine_hang_seconds,
        on_lost=end_process,
        registry=registry,
    )


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
    engine = service.canary.health()
    if not service.queue.alive:
        engine = ComponentHealth(status="down", detail="has failed")
    parts = {"engine": engine} | stand_in_health(service.folder)
    return Readiness(status=worst_status(parts), parts=parts)
