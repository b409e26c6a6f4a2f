"""What a running gateway holds: built from the settings, without what they leave out."""

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
    """What answers the requests of each relayed path."""
    shedders: Mapping[str, EncoderLoadShedder]
    """Of the paths of encoders, which refuse what would wait for too long."""
    catalog: ModelCatalog
    model_access: "ModelAccess | None"
    """None without keys that have models of their own."""
    rate_limiter: "RateLimiter | None"
    route_metrics: RouteMetrics
    tracer: Tracer | None

    def instrumentation(
        self, scope: Scope, tap: ResponseTap, service: ServiceMetrics, span_name: str
    ) -> RequestInstrumentation:
        """What measures one relayed request."""
        return RequestInstrumentation(scope, tap, self.route_metrics, service, self.tracer, span_name)


async def open_gateway(
    settings: GatewaySettings,
    table: RouteTable,
    registry: CollectorRegistry,
    buffers: BufferSemaphore,
    closing: AsyncExitStack,
) -> GatewayState:
    """The state that `settings` describe; `closing` closes it.

    Raises:
        OSError: the certificates that REDIS_URL names cannot be read.
        SystemExit: spans cannot be sent, for what sends them is not installed.
    """
    tracing = _open_tracer(settings, closing)
    upstreams = await open_services(settings, registry, closing)
    alarm = SharedBreaker()
    cache = await closing.enter_async_context(open_cache(settings, registry, alarm))
    rate_limiter = model_access = None
    if settings.has_limits:
        from gateway.limits.rate_limit import RateLimit
        from gateway.limits.rate_limiter import open_rate_limiter

        defaults = RateLimit(settings.requests_per_minute, settings.tokens_per_minute)
        rate_limiter = await closing.enter_async_context(
            open_rate_limiter(defaults, settings.redis_address(), registry, alarm)
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
    written = [route for route in table if route.cache in LLM_KINDS]
    if cache.enabled:
        from gateway.answers.llm_cache import LlmCache
        from gateway.answers.response_cache import ResponseCache

        llm = LlmCache(upstreams.llm, cache, settings, registry, buffers)
        handlers |= {route.path: llm.handler(route, handlers[route.path]) for route in written}
        for route in encoders:
            known = shedders[route.path].cached_bodies
            response_cache = ResponseCache(
                handlers[route.path], upstreams.by_name[route.service], route, cache, settings, known
            )
            handlers[route.path] = response_cache.handle
    else:
        from gateway.answers.bypass import BypassMetric, without_cache

        bypass = BypassMetric(registry)
        handlers |= {route.path: without_cache(handlers[route.path], bypass) for route in written}
    route_metrics = RouteMetrics(registry, time.monotonic)
    features = model_access, rate_limiter, route_metrics, tracing
    return GatewayState(upstreams, cache, handlers, shedders, catalog, *features)


def load_shedding_gate(app: FastAPI, table: RouteTable) -> LoadShedder:
    """Repeats a full encoder's refusals, before limits and routes."""

    def check(scope: Scope, body: bytes) -> None:
        gateway: GatewayState = app.state.service
        gateway.shedders[scope["path"]].check(scope, body)

    return LoadShedder(frozenset(route.path for route in table if route.cache in ENCODER_KINDS), check)


def _open_tracer(settings: GatewaySettings, closing: AsyncExitStack) -> Tracer | None:
    """Where spans go, if they do."""
    if settings.otel_exporter_otlp_endpoint is None:
        return None
    try:
        # Nothing of OpenTelemetry is needed otherwise, and its import takes a third of a second.
        from gateway.telemetry.otlp import OtlpTracer
    except ModuleNotFoundError:
        raise SystemExit(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed. "
            "Install onecard-gateway[otlp], or unset it."
        ) from None
    tracing = OtlpTracer(settings.otel_exporter_otlp_endpoint)
    closing.push_async_callback(asyncio.to_thread, tracing.close)
    return tracing
