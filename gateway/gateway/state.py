"""The state of a running gateway, built from the settings. What they leave out is not imported."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.types import Scope

from gateway.relay import relay_handler
from gateway.routes import ENCODER_KINDS, LLM_KINDS, Handler, RouteTable
from gateway.settings import GatewaySettings
from gateway.telemetry.instrumentation import RequestInstrumentation
from gateway.telemetry.metrics import RouteMetrics, ServiceMetrics
from gateway.telemetry.response_tap import ResponseTap
from gateway.telemetry.trace import Tracer
from gateway.upstream.load_shedder import EncoderLoadShedder
from gateway.upstream.model_catalog import ModelCatalog
from gateway.upstream.services import Upstreams, open_services
from onecard.cache.tiers import Cache, open_cache
from onecard.redis.channel import SharedBreaker
from onecard.web.buffer_semaphore import BufferSemaphore
from onecard.web.middleware import LoadShedder

if TYPE_CHECKING:
    from gateway.keys.model_access import ModelAccess
    from gateway.limits.rate_limiter import RateLimiter


@dataclass(frozen=True)
class GatewayState:
    """The app's state."""

    upstreams: Upstreams
    cache: Cache
    handlers: Mapping[str, Handler]
    """By path of the relayed routes."""
    shedders: Mapping[str, EncoderLoadShedder]
    """Load shedders by path of the encoders' routes."""
    catalog: ModelCatalog
    model_access: "ModelAccess | None"
    """None if no key has a list of models."""
    rate_limiter: "RateLimiter | None"
    """None if no key can have limits."""
    route_metrics: RouteMetrics
    tracer: Tracer | None
    """None without tracing."""

    def instrumentation(
        self, scope: Scope, tap: ResponseTap, service: ServiceMetrics, span_name: str
    ) -> RequestInstrumentation:
        """Metrics and trace of one relayed request.

        Args:
            scope: of the request.
            tap: on its response.
            service: metrics of its service.
            span_name: name of its span.

        Returns:
            A context manager for the whole request.
        """
        return RequestInstrumentation(scope, tap, self.route_metrics, service, self.tracer, span_name)


async def open_gateway(
    settings: GatewaySettings,
    table: RouteTable,
    registry: CollectorRegistry,
    buffers: BufferSemaphore,
    closing: AsyncExitStack,
) -> GatewayState:
    """Build the state that the settings describe.

    Args:
        settings: which features there are, and their parameters.
        table: the relayed routes.
        registry: for the metrics.
        buffers: shared by all requests.
        closing: closes the state.

    Returns:
        The state.

    Raises:
        OSError: the certificates that REDIS_URL names cannot be read.
        SystemExit: tracing is on, but OpenTelemetry is not installed.
    """
    tracer = _open_tracer(settings, closing)
    upstreams = await open_services(settings, registry, closing)
    breaker = SharedBreaker()
    cache = await closing.enter_async_context(open_cache(settings, registry, breaker))
    rate_limiter = model_access = None
    if settings.has_limits:
        from gateway.limits.rate_limit import RateLimit
        from gateway.limits.rate_limiter import open_rate_limiter

        defaults = RateLimit(settings.requests_per_minute, settings.tokens_per_minute)
        rate_limiter = await closing.enter_async_context(
            open_rate_limiter(defaults, settings.redis_address(), registry, breaker)
        )
    catalog = ModelCatalog()
    if settings.api_keys_file is not None:
        from gateway.keys.model_access import ModelAccess

        model_access = ModelAccess(catalog)
    services = {name: relay_handler(upstream) for name, upstream in upstreams.by_name.items()}
    handlers = {route.path: services[route.service] for route in table}
    encoders = [route for route in table if route.cache in ENCODER_KINDS]
    shedders = {route.path: EncoderLoadShedder(handlers[route.path], time.monotonic) for route in encoders}
    handlers |= {path: shedder.handle for path, shedder in shedders.items()}
    llm_routes = [route for route in table if route.cache in LLM_KINDS]
    if cache.enabled:
        from gateway.answers.llm_cache import LlmCache
        from gateway.answers.response_cache import ResponseCache

        llm = LlmCache(upstreams.llm, cache, settings, registry, buffers)
        handlers |= {route.path: llm.handler(route, handlers[route.path]) for route in llm_routes}
        for route in encoders:
            cached_bodies = shedders[route.path].cached_bodies
            response_cache = ResponseCache(
                handlers[route.path], upstreams.by_name[route.service], route, cache, settings, cached_bodies
            )
            handlers[route.path] = response_cache.handle
    else:
        from gateway.answers.bypass import BypassMetric, without_cache

        bypass = BypassMetric(registry, ["disabled"])
        handlers |= {route.path: without_cache(handlers[route.path], bypass) for route in llm_routes}
    route_metrics = RouteMetrics(registry, time.monotonic)
    features = model_access, rate_limiter, route_metrics, tracer
    return GatewayState(upstreams, cache, handlers, shedders, catalog, *features)


def load_shedding_gate(app: FastAPI, table: RouteTable) -> LoadShedder:
    """Load shedding for the request middleware: it comes before limits and routes.

    Args:
        app: its state is read for each request.
        table: the relayed routes.

    Returns:
        A shedder for the encoders' routes.
    """

    def check(scope: Scope, body: bytes) -> None:
        gateway: GatewayState = app.state.service
        gateway.shedders[scope["path"]].check(scope, body)

    return LoadShedder(frozenset(route.path for route in table if route.cache in ENCODER_KINDS), check)


def _open_tracer(settings: GatewaySettings, closing: AsyncExitStack) -> Tracer | None:
    """The tracer; None if tracing is off."""
    if settings.otel_exporter_otlp_endpoint is None:
        return None
    try:
        # Imported only when needed, because it takes a third of a second.
        from gateway.telemetry.otlp import OtlpTracer
    except ModuleNotFoundError:
        raise SystemExit(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed. "
            "Install onecard-gateway[otlp], or unset it."
        ) from None
    tracer = OtlpTracer(settings.otel_exporter_otlp_endpoint)
    closing.push_async_callback(asyncio.to_thread, tracer.close)
    return tracer
