"""Caches an encoder's responses by the exact request body.

The encoder itself caches the result of each text, in Redis too, whatever request it comes in. This cache saves the call
and the conversion of numbers to and from JSON: see decision 13.
"""

from fastapi.responses import Response
from starlette.types import Receive, Scope

from gateway.answers.cached_response import CachedResponse, CachedResponseCodec, cached_answer
from gateway.relay import CompleteResponse, upstream_request_of
from gateway.routes import Handler, Route
from gateway.upstream.request import UpstreamRequest
from gateway.upstream.services import Upstream
from onecard.cache import directives
from onecard.cache.keys import CacheKind, Keyspace
from onecard.cache.settings import CacheSettings
from onecard.cache.tiers import Cache, TypedCache
from onecard.models.identity import ModelIdentity
from onecard.web.recent_bodies import RecentBodies

MAX_BODY_BYTES = 256_000
"""Longer bodies are only relayed, because few are repeated."""
MAX_RESPONSE_BYTES = 64_000
"""Larger responses are not cached: batches for an index are not repeated, and would displace the LLM's responses. It
is three vectors of 768 numbers as text, or eleven as base64."""


class ResponseCache:
    """Handles one route of an encoder."""

    def __init__(
        self,
        handler: Handler,
        upstream: Upstream,
        route: Route,
        cache: Cache,
        settings: CacheSettings,
        cached_bodies: RecentBodies,
    ) -> None:
        """Start with what the cache has.

        Args:
            handler: relays requests to the encoder.
            upstream: the encoder; its model is part of the cache key.
            route: one of the cached routes.
            cache: only its memory tier is used.
            settings: time to live.
            cached_bodies: gets the body of each request whose response is cached.
        """
        assert route.cache is not None  # noqa: S101 - the caller passes cached routes only
        self._handler = handler
        self._upstream = upstream
        self._kind: CacheKind = route.cache
        memory = cache.in_memory()
        self._enabled = memory.enabled
        self._store = TypedCache(memory, self._kind, CachedResponseCodec(), settings.ttl_seconds(self._kind))
        self._cached_bodies = cached_bodies

    async def handle(self, scope: Scope, receive: Receive) -> Response:
        """Answer a request from the cache, or relay it.

        Args:
            scope: of the request.
            receive: ASGI channel.

        Returns:
            The response; `x-cache` is the encoder's own if the request was relayed.

        Raises:
            TooBusy: as the handler.
            Unavailable: as the handler, or there is no buffer space.
            BadUpstream: as the handler.
            DeadlineExceeded: as the handler.
            HeadersTooLarge: as the handler.
        """
        request = upstream_request_of(scope)
        allowed = directives.parse(request.headers.get("cache-control"))
        model = self._upstream.load_balancer.model
        if model is None or not allowed.store or not self._enabled or len(request.body) > MAX_BODY_BYTES:
            return await self._handler(scope, receive)
        key = self._key(request, model)
        if allowed.read and (answer := await cached_answer(self._store, key, scope)):
            return answer
        response = await self._handler(scope, receive)
        if isinstance(response, CompleteResponse) and self._is_cacheable(response, model):
            content_type = response.headers.get("content-type", "application/json")
            self._store.set_many([(key, CachedResponse(content_type, bytes(response.body)))])
            self._cached_bodies.add(request.body)
        return response

    def _is_cacheable(self, response: CompleteResponse, model: ModelIdentity) -> bool:
        """Whether it is a short success of the model in the cache key, and the encoder may cache it too."""
        if response.headers.get("x-cache") == "bypass":
            return False  # The body may have a `cache_salt`; the gateway does not read it.
        return response.status_code == 200 and response.model == model and len(response.body) <= MAX_RESPONSE_BYTES

    def _key(self, request: UpstreamRequest, model: ModelIdentity) -> bytes:
        space = Keyspace(self._kind, model.model, model.revision, model.fingerprint)
        return space.for_body(request.headers.get("content-type", ""), request.body)
