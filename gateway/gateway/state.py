"""What a running gateway holds."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from gateway.answers.serve import Answers
from gateway.settings import GatewaySettings
from gateway.upstreams import Upstreams, connect
from onecard.cache.tiers import Cache, open_cache


@dataclass(frozen=True)
class Gateway:
    """The app's state."""

    upstreams: Upstreams
    cache: Cache
    answers: Answers


async def open_gateway(settings: GatewaySettings, registry: CollectorRegistry, closing: AsyncExitStack) -> Gateway:
    """The state that `settings` describe; `closing` closes it.

    Raises:
        OSError: the certificates that REDIS_URL names cannot be read.
    """
    upstreams = await connect(settings, closing)
    cache = await closing.enter_async_context(open_cache(settings, registry))

    return Gateway(upstreams, cache, Answers(upstreams.llm, cache, settings, registry))
