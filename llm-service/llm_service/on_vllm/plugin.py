"""The plug-in that adds our routes to the stock vLLM server and removes others.

vLLM loads it through the entry point group `vllm.endpoint_plugins`.
"""

import asyncio
import time
from argparse import Namespace
from collections.abc import Callable
from importlib import metadata
from typing import Any

import vllm
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import State
from starlette.routing import BaseRoute
from uvicorn.protocols.http import auto
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.openai.completion.protocol import CompletionRequest, CompletionResponse
from vllm.platforms import current_platform
from vllm.v1.metrics.prometheus import get_prometheus_registry

from llm_service.model_card import check_model_name, model_card
from llm_service.model_identity import identify
from llm_service.on_vllm.draining import DrainState, drain_before_shutdown
from llm_service.on_vllm.engine_canary import EngineCanary
from llm_service.on_vllm.processes import mark_serving
from llm_service.schemas import GenerateAnswer, GenerateRequest
from llm_service.settings import LlmSettings
from onecard import errors
from onecard import settings as settings_
from onecard.models import folders
from onecard.models.identity import ModelIdentity
from onecard.web import health, server
from onecard.web.app import ERROR_RESPONSES
from onecard.web.canary import CanaryFailed
from onecard.web.disconnect import run_until_disconnect

_ALLOWED_PATHS = frozenset(
    {
        *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/detokenize"),
        *("/metrics", "/version", "/openapi.json", "/docs"),
    }
)
"""vLLM's routes that stay. The others are removed: some change the server for all clients, and none of them is covered
by `llm_service.request_limits`, because their bodies have other fields. Our own health routes replace vLLM's."""


class Plugin:
    """Our endpoint plug-in. vLLM creates it, calls `attach_router`, then `init_state` when the engine is ready."""

    name = "onecard"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._settings = settings_.load(LlmSettings)
        self._app: FastAPI | None = None
        self._allowed_routes: list[BaseRoute] = []

    def attach_router(self, app: FastAPI) -> None:
        """Replace vLLM's routes with the allowed ones and ours. Called while vLLM builds its app.

        Args:
            app: vLLM's app.
        """
        app.state.onecard_traffic = DrainState()
        routes = app.router.routes
        routes[:] = [route for route in routes if getattr(route, "path", "") in _ALLOWED_PATHS]
        app.router.redirect_slashes = False
        app.include_router(_routes(), responses=ERROR_RESPONSES)
        app.include_router(health.router(_ready), responses=ERROR_RESPONSES)
        self._app, self._allowed_routes = app, list(routes)
        # uvicorn's own HTTP protocol limits neither the size of trailers nor the time that a client may take.
        auto.AutoHTTPProtocol = server.protocol_factory(self._settings, get_prometheus_registry())  # type: ignore[assignment]

    async def init_state(self, engine_client: EngineClient, state: State, args: Namespace) -> None:
        """Set what our routes need. Called when the engine is ready, after vLLM has installed its error handlers.

        Args:
            engine_client: vLLM's client of the engine process. Its `shutdown` is replaced by one that drains first.
            state: State of vLLM's app; receives model object, identity and folder.
            args: vLLM's command line.

        Raises:
            RuntimeError: vLLM did not call `attach_router` first.
            SystemExit: The model gives no finite numbers.
        """
        if self._app is None:
            raise RuntimeError("vLLM gave the engine before the app")
        errors.install(self._app)  # Replaces two of vLLM's handlers.
        self._app.router.routes[:] = self._allowed_routes  # Since `attach_router`, vLLM has added more routes.
        # vLLM has built the middleware stack already, with the handlers of that time.
        self._app.middleware_stack = self._app.build_middleware_stack()
        config = self._settings
        folder = folders.find("llm", config.llm_model, config.model_cache_path, stand_ins=config.allow_stand_ins)
        window = engine_client.model_config.max_model_len
        identity = await asyncio.to_thread(_identify, folder, engine_client, args)
        state.onecard_card = model_card(folder, identity, engine="vllm", window=window, created=int(time.time()))
        state.onecard_identity = identity
        state.onecard_folder = folder
        engine_client.shutdown = drain_before_shutdown(
            _with_server_stop(engine_client.shutdown, state),
            failed=lambda: engine_client.errored,
            traffic=state.onecard_traffic,
            seconds=self._settings.drain_seconds,
        )
        engine_canary = EngineCanary(engine_client, get_prometheus_registry())
        try:
            await engine_canary.compute()
        except CanaryFailed as failure:
            raise SystemExit(
                f"model {folder.name} {failure}. Its files are damaged, or LLM_DTYPE is not for this model."
            ) from None
        state.onecard_canary = engine_canary.watch(self._settings)
        state.onecard_canary.start()
        mark_serving()


def _with_server_stop(shutdown: Callable[[float | None], None], state: State) -> Callable[[float | None], None]:
    """Wrap the engine's `shutdown` so that the HTTP server ends too, also with responses in progress."""

    # The stopped engine will never complete them, so the server need not wait for clients as long as otherwise.
    def stop(timeout: float | None) -> None:
        http, traffic = getattr(state, "server", None), state.onecard_traffic
        if http is not None and traffic.in_flight:
            http.config.timeout_graceful_shutdown = 0
        shutdown(timeout)

    return stop


def _identify(folder: folders.ModelFolder, engine_client: EngineClient, args: Namespace) -> ModelIdentity:
    model = engine_client.model_config
    return identify(
        folder,
        engine=f"vllm {vllm.__version__}, torch {metadata.version('torch')}",
        precision=str(model.dtype).removeprefix("torch."),
        device=current_platform.device_type,
        window=model.max_model_len,
        details={
            "quantization": str(model.quantization),
            "eager": str(model.enforce_eager),
            "kv": str(engine_client.vllm_config.cache_config.cache_dtype),
            "tools": str(args.tool_call_parser),
        },
    )


async def _ready(request: Request) -> health.Readiness:
    state = request.app.state
    if state.onecard_traffic.stopping:
        engine = health.ComponentHealth(status="down", detail="is stopping")
    elif state.engine_client.errored:
        engine = health.ComponentHealth(status="down", detail="has failed")
    else:
        engine = state.onecard_canary.health()
    parts = {"engine": engine} | health.stand_in_health(request.app.state.onecard_folder)
    return health.Readiness(status=health.worst_status(parts), parts=parts)


def _routes() -> APIRouter:
    router = APIRouter()

    @router.post("/generate", response_model=GenerateAnswer)
    async def generate(body: GenerateRequest, raw_request: Request) -> Any:
        """Continue a prompt. Generation stops when the client disconnects."""
        completion = CompletionRequest(**body.model_dump())
        generation = raw_request.app.state.openai_serving_completion.create_completion(completion, raw_request)
        answer = await run_until_disconnect(generation, raw_request.receive)
        if not isinstance(answer, CompletionResponse):
            return JSONResponse(answer.model_dump(), answer.error.code)
        choice = answer.choices[0]
        return GenerateAnswer(text=choice.text, finish_reason=choice.finish_reason or "stop")

    @router.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        """List the model that is served."""
        # Replaces vLLM's route, whose response contains the path of the model's folder.
        return {"object": "list", "data": [request.app.state.onecard_card]}

    @router.get("/v1/models/{name:path}")
    async def one_model(name: str, request: Request) -> Response:
        """Show the model, under any of its accepted names."""
        check_model_name(request.app.state.onecard_folder, name)
        return JSONResponse(request.app.state.onecard_card)

    return router
