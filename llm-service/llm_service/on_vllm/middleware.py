"""The request middleware of all Onecard services, for the stock vLLM server, which loads it through `--middleware`."""

from starlette.types import ASGIApp, Receive, Scope, Send
from vllm.v1.metrics.prometheus import get_prometheus_registry

from llm_service.limits_middleware import RequestLimitsMiddleware
from llm_service.on_vllm.draining import CLOSE_SECONDS, DrainState
from llm_service.on_vllm.error_rewriting import ErrorFormatMiddleware, engine_failed
from llm_service.on_vllm.memory import memory_metrics
from llm_service.request_limits import RequestLimits
from llm_service.settings import LlmSettings
from onecard import logs
from onecard import settings as settings_
from onecard.errors import Unavailable
from onecard.metrics import HttpMetrics, LogMetrics
from onecard.web.auth import UNAUTHENTICATED_PATHS, KeyGuard
from onecard.web.middleware import RequestMiddleware
from onecard.web.model_identity_middleware import ModelIdentityMiddleware

_QUERY_PATHS = frozenset(
    {
        "/detokenize",
        "/generate",
        "/health",
        "/health/ready",
        "/health/live",
        "/tokenize",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/responses",
    }
)
"""Paths on which unknown query parameters are rejected: those that the gateway has, too. On vLLM's other routes
clients send parameters that vLLM does not declare."""


class VllmMiddleware:
    """The outermost middleware: API key on every route, limits, strict JSON, one error format, access log, metrics."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._middleware: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request through the middleware, which is built at the first call."""
        # Not in __init__: vLLM's middleware stack is built twice, but metrics can be registered only once.
        if self._middleware is None:
            settings = settings_.load(LlmSettings)
            logs.configure("llm", settings.log_level)
            registry = get_prometheus_registry()
            metrics = HttpMetrics(registry)
            registry.register(LogMetrics())
            memory_metrics(registry)
            limited = RequestLimitsMiddleware(
                JsonTypeMiddleware(self._app), bounds=RequestLimits.from_settings(settings)
            )
            inner = ErrorFormatMiddleware(DrainMiddleware(limited))
            guard = KeyGuard(settings.api_key)
            outer = RequestMiddleware(
                inner, settings=settings, metrics=metrics, json_bodies=True, guard=guard, query_paths=_QUERY_PATHS
            )
            self._middleware = ModelIdentityMiddleware(
                outer, lambda scope: getattr(scope["app"].state, "onecard_identity", None)
            )
        await self._middleware(scope, receive, send)


class JsonTypeMiddleware:
    """Says `application/json` of each body, which has been parsed by then: vLLM knows no other spelling of the type."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with that type."""
        if scope["type"] == "http":
            others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
            # In the scope itself, not in a copy: the outer middleware reads the route from it.
            scope["headers"] = [*others, (b"content-type", b"application/json")]
        await self._app(scope, receive, send)


class DrainMiddleware:
    """Counts the requests in progress, and rejects new ones while the server stops. Limits how long that waits."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or reject it. Health checks are neither counted nor rejected.

        Args:
            scope: The connection's scope.
            receive: Passed on.
            send: Passed on.

        Raises:
            Unavailable: The server is stopping, or the engine process has died.
        """
        if scope["type"] == "lifespan":  # The server exists. When the engine dies, it stops before we hear of it.
            scope["app"].state.server.config.timeout_graceful_shutdown = CLOSE_SECONDS
        if scope["type"] != "http" or scope["path"] in UNAUTHENTICATED_PATHS:
            await self._app(scope, receive, send)
            return
        traffic: DrainState = scope["app"].state.onecard_traffic
        if traffic.stopping or engine_failed(scope):
            raise Unavailable("The server is restarting. Try again in a few seconds.", retry_after=5)
        traffic.in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            traffic.in_flight -= 1
