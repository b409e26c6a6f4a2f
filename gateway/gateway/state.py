"""What a running gateway holds."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.responses import Response
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope

from gateway.answers import policy
from gateway.answers.repeats import Repeats
from gateway.answers.serve import Answers
from gateway.catalog import Catalog
from gateway.limits.admission import Quota
from gateway.limits.limits import Limits, open_limits
from gateway.metrics import RouteMetrics
from gateway.observed import Observer
from gateway.scopes import Scopes
from gateway.settings import GatewaySettings
from gateway.trail import Tracing
from gateway.upstreams import Upstreams, connect
from onecard.cache.tiers import Cache, open_cache
from onecard.redis.channel import SharedBreaker
from onecard.web.buffer_semaphore import BufferSemaphore
from onecard.web.middleware import LoadShedder

Answer = Callable[[Scope, Receive], Awaitable[Response]]


@dataclass(frozen=True)
class Gateway:
    """The app's state."""

    upstreams: Upstreams
    cache: Cache
    answers: Mapping[str, Answer]
    """What answers the paths whose answers are kept; the others are only relayed."""
    encoders: Mapping[str, Repeats]
    """Of these, what answers the encoders' paths."""
    catalog: Catalog
    scopes: Scopes
    limits: Limits
    observer: Observer


async def open_gateway(
    settings: GatewaySettings, registry: CollectorRegistry, buffers: BufferSemaphore, closing: AsyncExitStack
) -> Gateway:
    """The state that `settings` describe; `closing` closes it.

    Raises:
        OSError: the certificates that REDIS_URL names cannot be read.
        SystemExit: spans cannot be sent, for what sends them is not installed.
    """
    observer = Observer(RouteMetrics(registry, time.monotonic), _tracing(settings, closing))
    upstreams = await connect(settings, registry, closing)
    alarm = SharedBreaker()
    cache = await closing.enter_async_context(open_cache(settings, registry, alarm))
    defaults = Quota(settings.requests_per_minute, settings.tokens_per_minute)
    # Nobody is asked to run a Redis for limits that there cannot be.
    address = None if settings.api_keys_file is None and defaults.is_empty else settings.redis_address()
    limits = await closing.enter_async_context(open_limits(defaults, address, registry, alarm))
    llm = Answers(upstreams.llm, cache, settings, registry, buffers)
    encoders = {
        "/v1/embeddings": Repeats(upstreams.embedding, "embedding", cache, settings.ttl_seconds("embedding")),
        "/v1/sentiment": Repeats(upstreams.sentiment, "sentiment", cache, settings.ttl_seconds("sentiment")),
    }
    answers = dict.fromkeys(policy.KINDS, llm.answer) | {path: encoder.answer for path, encoder in encoders.items()}
    catalog = Catalog()
    return Gateway(upstreams, cache, answers, encoders, catalog, Scopes(catalog), limits, observer)


def gate(app: FastAPI) -> LoadShedder:
    """Repeats a full encoder's refusals, before limits and routes."""

    def check(scope: Scope, body: bytes) -> None:
        gateway: Gateway = app.state.service
        gateway.encoders[scope["path"]].check(scope, body)

    return LoadShedder(frozenset({"/v1/embeddings", "/v1/sentiment"}), check)


def _tracing(settings: GatewaySettings, closing: AsyncExitStack) -> Tracing | None:
    """Where spans go, if they do."""
    if settings.otel_exporter_otlp_endpoint is None:
        return None
    try:
        # Nothing of OpenTelemetry is needed otherwise, and its import takes a third of a second.
        from gateway.otlp import OtlpTracing
    except ModuleNotFoundError:
        raise SystemExit(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed. "
            "Install onecard-gateway[otlp], or unset it."
        ) from None
    tracing = OtlpTracing(settings.otel_exporter_otlp_endpoint)
    closing.push_async_callback(asyncio.to_thread, tracing.close)
    return tracing
