"""Answers of an encoder to bodies that come again, byte for byte: given without asking it.

The encoder keeps every text's result, in Redis too, and finds it in whichever request it comes. What is here saves the
way to it, the reading and the writing of numbers: see decision 13.
"""

from fastapi.responses import Response
from starlette.types import Receive, Scope

from gateway.answers.cached_response import CachedResponse, CachedResponseCodec, hit_response, look_up
from gateway.relay import CompleteResponse, upstream_request_of
from gateway.routes import Handler, Route
from gateway.upstream.request import UpstreamRequest
from gateway.upstream.services import Upstream
from onecard.cache import directives
from onecard.cache.keys import CacheKind, Keyspace
from onecard.cache.settings import CacheSettings
from onecard.cache.tiers import Cache, TypedCache
from onecard.models.identity import ModelIdentity
from onecard.web.middleware import request_state
from onecard.web.recent_bodies import RecentBodies

MAX_BODY_BYTES = 256_000
"""Longer bodies are only relayed: few come twice."""
MAX_RESPONSE_BYTES = 64_000
"""Larger answers are not kept: what indexes texts in batches comes once, and would push the LLM's answers out. It is
three vectors of 768 numbers as text, or eleven as base64."""


class ResponseCache:
    """Answers one encoder's route."""

    def __init__(
        self,
        handler: Handler,
        upstream: Upstream,
        route: Route,
        cache: Cache,
        settings: CacheSettings,
        known: RecentBodies,
    ) -> None:
        """Keep what `handler` answers in the memory of `cache`, each under the model of `upstream` that gave it, and
        its request's body in `known`."""
        assert route.cache is not None  # noqa: S101 - the caller has picked the routes that are cached
        self._handler = handler
        self._upstream = upstream
        self._kind: CacheKind = route.cache
        memory = cache.in_memory()
        self._enabled = memory.enabled
        self._store = TypedCache(memory, self._kind, CachedResponseCodec(), settings.ttl_seconds(self._kind))
        self._cached_bodies = known

    async def handle(self, scope: Scope, receive: Receive) -> Response:
        """The answer to a request, as the handler gives it; `x-cache` is the encoder's where it was asked.

        Raises:
            TooBusy, Unavailable, BadUpstream, DeadlineExceeded: as the handler.
        """
        request = upstream_request_of(scope)
        allowed = directives.parse(request.headers.get("cache-control"))
        model = self._upstream.load_balancer.model
        if model is None or not allowed.store or not self._enabled or len(request.body) > MAX_BODY_BYTES:
            return await self._handler(scope, receive)
        key = self._key(request, model)
        if allowed.read and (cached := await look_up(self._store, key, request_state(scope)["timings"])):
            return hit_response(cached)
        response = await self._handler(scope, receive)
        if isinstance(response, CompleteResponse) and response.model == model and response.status_code == 200:
            body = bytes(response.body)
            if len(body) <= MAX_RESPONSE_BYTES:
                self._store.set_many(
                    [(key, CachedResponse(response.headers.get("content-type", "application/json"), body))]
                )
                self._cached_bodies.add(request.body)
        return response

    def _key(self, request: UpstreamRequest, model: ModelIdentity) -> bytes:
        space = Keyspace(self._kind, model.model, model.revision, model.fingerprint)
        return space.for_body(request.headers.get("content-type", ""), request.body)
