"""Responses of the LLM: from the cache, from a shared computation, or from the service."""

import asyncio
import time
from collections.abc import AsyncIterator, Hashable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from dataclasses import replace
from typing import Literal, get_args
from weakref import WeakValueDictionary

from fastapi.responses import Response
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope

from gateway.answers import cache_policy, completeness
from gateway.answers.bypass import BypassMetric
from gateway.answers.cache_lookup import CacheLookup
from gateway.answers.cached_response import CachedResponse, CachedResponseCodec, cached_answer
from gateway.answers.shared_stream import NotStreamed, SharedStream, recorded_stream
from gateway.relay import CompleteResponse, complete_response, upstream_request_of
from gateway.request_body import JsonBody
from gateway.routes import Handler, Route
from gateway.settings import STREAMS_SHARE, GatewaySettings
from gateway.telemetry.trace import SharedComputation
from gateway.upstream.deadline import SHARED_DEADLINE_SECONDS, Deadline
from gateway.upstream.request import UpstreamRequest, deadline_of, send
from gateway.upstream.response import UpstreamResponse, deadline_exceeded, response_broken_off
from gateway.upstream.services import Upstream
from onecard.cache import directives
from onecard.cache.keys import CacheKind
from onecard.cache.tiers import Cache, TypedCache
from onecard.coalescing.single_flight import FlightCancelled, SingleFlight, TaskSet
from onecard.coalescing.stream_broadcast import StreamBroadcast
from onecard.errors import TooBusy
from onecard.web.buffer_semaphore import BufferLease, BufferSemaphore
from onecard.web.disconnect import run_until_disconnect
from onecard.web.middleware import request_state

MAX_INLINE_CHECK_BYTES = 200_000
"""A longer stream is checked for completeness in a thread: a megabyte takes 20 ms."""
XCache = Literal["hit", "miss", "coalesced", "bypass"]


class LlmCache:
    """Handles the LLM's cached routes."""

    def __init__(
        self,
        upstream: Upstream,
        cache: Cache,
        settings: GatewaySettings,
        registry: CollectorRegistry,
        buffers: BufferSemaphore,
    ) -> None:
        """Start without computations.

        Args:
            upstream: the LLM service.
            cache: stores the responses, with the model in the key.
            settings: highest temperature, time to live, and buffer space.
            registry: for the metrics.
            buffers: space for shared responses.
        """
        self._upstream = upstream
        self._cache = cache
        self._buffers = buffers
        self._max_temperature = settings.llm_cache_max_temperature
        self._ttl_seconds = settings.cache_llm_ttl_seconds
        self._stores: dict[CacheKind, TypedCache[CachedResponse, CachedResponse]] = {}
        """By kind of route."""
        self._tasks = TaskSet()
        self._computations: WeakValueDictionary[Hashable, SharedComputation] = WeakValueDictionary()
        """Those that are under way, which the traces of their requests hold."""
        # A full queue refuses only the caller with the most requests in it, so that error is not shared.
        self._flights = SingleFlight[CompleteResponse](caller_errors=(TooBusy,))
        streams_bytes = int(settings.buffer_mb * 1_000_000 * STREAMS_SHARE)
        self._streams = StreamBroadcast(max_all_bytes=streams_bytes, caller_errors=(TooBusy,))
        self._bypass = BypassMetric(registry, get_args(cache_policy.BypassReason))

    def handler(self, route: Route, relayed: Handler) -> Handler:
        """A handler for one route.

        Args:
            route: which one.
            relayed: handler for requests that bypass the cache.

        Returns:
            A handler that adds `x-cache` to each response; `relayed` itself if the route is not cached.
        """
        kind = route.cache
        if kind is None:
            return relayed
        self._stores.setdefault(kind, TypedCache(self._cache, kind, CachedResponseCodec(), self._ttl_seconds))

        async def handle(scope: Scope, receive: Receive) -> Response:
            lookup = self._lookup(kind, upstream_request_of(scope), route.json(scope))
            if isinstance(lookup, cache_policy.Bypass):
                return self._bypass.mark(await relayed(scope, receive), lookup.reason)
            return await self._respond(lookup, scope, receive)

        return handle

    async def _respond(self, lookup: CacheLookup, scope: Scope, receive: Receive) -> Response:
        is_running = lookup.flight_key in (self._streams if lookup.request.is_stream else self._flights)
        may_hit = lookup.cache_control.read and not is_running
        if may_hit and (answer := await cached_answer(self._stores[lookup.request.kind], lookup.key, scope)):
            return answer
        if lookup.request.is_stream:
            return await self._stream(lookup, scope, receive)
        return await self._complete_response(lookup, scope, receive)

    def _lookup(
        self, kind: CacheKind, upstream_request: UpstreamRequest, body: JsonBody
    ) -> CacheLookup | cache_policy.Bypass:
        allowed = directives.parse(upstream_request.headers.get("cache-control"))
        if not allowed.store:
            return cache_policy.Bypass("no-store")
        request = cache_policy.cacheable(
            kind, upstream_request.headers.get("content-type"), body, self._max_temperature
        )
        if isinstance(request, cache_policy.Bypass):
            return request
        model = self._upstream.load_balancer.model
        return (
            cache_policy.Bypass("unknown model")
            if model is None
            else CacheLookup(request, upstream_request, model, allowed)
        )

    async def _complete_response(self, lookup: CacheLookup, scope: Scope, receive: Receive) -> Response:
        async def compute() -> CompleteResponse:
            with ExitStack() as failing:
                buffers = self._buffers.lease(lookup.upstream_request.caller)
                failing.callback(buffers.close)
                response = await self._send(lookup, scope, buffers)
                with closing(response):
                    body = await response.read()
                if self._is_cacheable(lookup, response) and completeness.is_complete_response(
                    lookup.request.kind, body
                ):
                    self._store(lookup, CachedResponse(response.headers.get("content-type", "application/json"), body))
                complete = self._normalized(response, body)
                complete.buffers = buffers
                failing.pop_all()
                return complete

        deadline = deadline_of(lookup.upstream_request, self._upstream)
        self._link_trace(lookup, is_running=lookup.flight_key in self._flights)
        try:
            async with self._deadline(deadline):
                joined = await run_until_disconnect(self._flights.do(lookup.flight_key, compute), receive)
        except FlightCancelled:
            raise response_broken_off(self._upstream) from None
        return _copy_of(joined.result, self._count(lookup, joined.coalesced))

    async def _stream(self, lookup: CacheLookup, scope: Scope, receive: Receive) -> Response:
        cacheable = False

        async def source() -> AsyncIterator[bytes]:
            nonlocal cacheable
            with (
                closing(self._buffers.lease(lookup.upstream_request.caller)) as buffers,
                closing(await self._send(lookup, scope, buffers)) as response,
            ):
                if response.status != 200 or not response.is_stream:
                    raise NotStreamed(self._normalized(response, await response.read()))
                cacheable = self._is_cacheable(lookup, response)
                yield response.headers["content-type"].encode("latin-1", "replace")
                async for chunk in response:
                    yield chunk

        def on_complete(recording: tuple[bytes, ...]) -> None:
            if not cacheable:
                return
            if sum(map(len, recording)) <= MAX_INLINE_CHECK_BYTES:
                self._store(lookup, recorded_stream(recording))
            else:
                self._tasks.start(check_and_store(recording))

        async def check_and_store(recording: tuple[bytes, ...]) -> None:
            self._store(lookup, await asyncio.to_thread(recorded_stream, recording))

        deadline = deadline_of(lookup.upstream_request, self._upstream)
        self._link_trace(lookup, is_running=lookup.flight_key in self._streams)
        async with AsyncExitStack() as stack:
            reader = await stack.enter_async_context(self._streams.subscribe(lookup.flight_key, source, on_complete))
            try:
                async with self._deadline(deadline):
                    content_type = await run_until_disconnect(anext(reader), receive)
            except NotStreamed as error:
                return _copy_of(error.response, self._count(lookup, reader.coalesced))
            except FlightCancelled:
                raise response_broken_off(self._upstream) from None
            headers = {
                "content-type": content_type.decode("latin-1"),
                "x-cache": self._count(lookup, reader.coalesced),
            }
            return SharedStream(reader, headers, deadline, stack.pop_all(), self._upstream)

    @asynccontextmanager
    async def _deadline(self, deadline: Deadline) -> AsyncIterator[None]:
        """Limit the time that one client waits for a shared computation; raises `DeadlineExceeded` at its end."""
        try:
            async with asyncio.timeout(deadline.remaining):
                yield
        except TimeoutError:
            raise deadline_exceeded(self._upstream) from None

    def _link_trace(self, lookup: CacheLookup, *, is_running: bool) -> None:
        """Note which computation a request waits for: while that waits for a slot, nobody works for its requests."""
        computation = self._computations.get(lookup.flight_key) if is_running else None
        if computation is None:
            computation = self._computations[lookup.flight_key] = SharedComputation()
        lookup.upstream_request.trace.computation = computation

    async def _send(self, lookup: CacheLookup, scope: Scope, buffers: BufferLease) -> UpstreamResponse:
        if computation := self._computations.get(lookup.flight_key):
            computation.trace = lookup.upstream_request.trace
        shared = None if lookup.is_unshared else Deadline(time.monotonic() + SHARED_DEADLINE_SECONDS, time.monotonic)
        response = await send(replace(lookup.upstream_request, buffers=buffers), self._upstream, shared)
        request_state(scope)["timings"].update(response.timings)
        return response

    def _is_cacheable(self, lookup: CacheLookup, response: UpstreamResponse) -> bool:
        """Whether a response is a success and comes from the model in the cache key."""
        return response.model == lookup.model and response.status == 200

    def _normalized(self, response: UpstreamResponse, body: bytes) -> CompleteResponse:
        return complete_response(response, body, self._upstream)

    def _store(self, lookup: CacheLookup, value: CachedResponse | None) -> None:
        """Store a response; None, an incomplete one, is not stored."""
        if value is not None:
            self._stores[lookup.request.kind].set_many([(lookup.key, value)])

    def _count(self, lookup: CacheLookup, coalesced: bool) -> XCache:
        if coalesced:
            self._cache.metrics.coalesced(lookup.request.kind)
        return "coalesced" if coalesced else "miss"


def _copy_of(shared: CompleteResponse, x_cache: XCache) -> CompleteResponse:
    """One client's copy of a shared response."""
    copy = CompleteResponse(bytes(shared.body), shared.status_code, {**shared.headers, "x-cache": x_cache})
    copy.buffers = shared.buffers
    return copy
