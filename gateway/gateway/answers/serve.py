"""Answers of the LLM: from the cache, from a computation that is under way, or from the service."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, aclosing, asynccontextmanager, closing
from dataclasses import replace
from typing import Literal, get_args

from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter
from starlette.types import Receive, Scope

from gateway.answers import complete, policy
from gateway.answers.kept import Kept, KeptCodec, find, hit
from gateway.answers.streams import NotStreamed, SharedStream, recorded, source
from gateway.answers.wanted import Wanted
from gateway.calls import Call, deadline_of, send
from gateway.deadlines import SHARED_SECONDS, Deadline
from gateway.relay import Whole, call_of, relay, whole_answer
from gateway.reply import Reply, broken_off, late
from gateway.settings import GatewaySettings
from gateway.upstreams import Upstream
from onecard.cache import cache_policy
from onecard.cache.tiers import Cache, TypedCache
from onecard.coalescing.single_flight import FlightCancelled, SingleFlight, TaskSet
from onecard.coalescing.stream_broadcast import StreamBroadcast, StreamSubscriber
from onecard.errors import TooBusy
from onecard.web.buffer_semaphore import BufferLease, BufferSemaphore
from onecard.web.disconnect import run_until_disconnect
from onecard.web.middleware import request_state

STREAMS_SHARE = 0.25
"""Of all that is buffered, what streams have that several clients read."""
CHECKED_AT_ONCE_BYTES = 200_000
"""A longer stream is read through beside the event loop: a megabyte takes 20 ms."""
XCache = Literal["hit", "miss", "coalesced", "bypass"]


class Answers:
    """Answers the routes of `policy.KINDS`."""

    def __init__(
        self,
        upstream: Upstream,
        cache: Cache,
        settings: GatewaySettings,
        registry: CollectorRegistry,
        buffers: BufferSemaphore,
    ) -> None:
        """Keep answers of `upstream` in `cache`, each under the model that gave it."""
        self._upstream = upstream
        self._cache = cache
        self._buffers = buffers
        self._max_temperature = settings.llm_cache_max_temperature
        self._stores = {
            kind: TypedCache(cache, kind, KeptCodec(), settings.ttl_seconds(kind)) for kind in policy.KINDS.values()
        }
        self._tasks = TaskSet()
        # Refused is one caller, whose line at the service was the longest.
        self._flights = SingleFlight[Whole](caller_errors=(TooBusy,))
        streams_bytes = int(settings.buffer_mb * 1_000_000 * STREAMS_SHARE)
        self._streams = StreamBroadcast(max_all_bytes=streams_bytes, caller_errors=(TooBusy,))
        bypassed = Counter(
            "onecard_answers_bypassed_total",
            "Requests that were only relayed, by reason.",
            ["reason"],
            registry=registry,
        )
        self._bypassed = {reason: bypassed.labels(reason) for reason in get_args(policy.Reason)}

    async def answer(self, scope: Scope, receive: Receive) -> Response:
        """The answer to a request, as `gateway.relay.relay` gives it, with `x-cache`.

        Raises:
            TooBusy, Unavailable, BadUpstream, DeadlineExceeded: as `relay`.
        """
        call = call_of(scope)
        wanted = self._wanted(call)
        if isinstance(wanted, policy.Bypass):
            self._bypassed[wanted.reason].inc()
            response = await relay(scope, receive, self._upstream, call)
            response.headers["x-cache"] = "bypass"
            return response
        under_way = wanted.flight in (self._streams if wanted.question.streams else self._flights)
        if wanted.policy.read and not under_way:
            store, timings = self._stores[wanted.question.kind], request_state(scope)["timings"]
            if kept := await find(store, wanted.key, timings):
                return hit(kept)
        if wanted.question.streams:
            return await self._stream(wanted, scope, receive)
        return await self._whole(wanted, scope, receive)

    def _wanted(self, call: Call) -> Wanted | policy.Bypass:
        if not self._cache.enabled:
            return policy.Bypass("disabled")
        allowed = cache_policy.parse(call.headers.get("cache-control"))
        if not allowed.store:
            return policy.Bypass("no-store")
        question = policy.read(call.path, call.headers.get("content-type"), call.body, self._max_temperature)
        if isinstance(question, policy.Bypass):
            return question
        model = self._upstream.pool.model
        return policy.Bypass("unknown model") if model is None else Wanted(question, call, model, allowed)

    async def _whole(self, wanted: Wanted, scope: Scope, receive: Receive) -> Response:
        async def compute() -> Whole:
            with ExitStack() as failing:
                held = self._buffers.lease()
                failing.callback(held.close)
                reply = await self._ask(wanted, scope, held)
                with closing(reply):
                    body = await reply.read()
                if self._is_of(wanted, reply) and complete.whole(wanted.question.kind, body):
                    self._keep(wanted, Kept(reply.headers.get("content-type", "application/json"), body))
                answer = self._shaped(reply, body)
                answer.held = held
                failing.pop_all()
                return answer

        deadline = deadline_of(wanted.call, self._upstream)
        try:
            async with self._within(deadline):
                joined = await run_until_disconnect(self._flights.do(wanted.flight, compute), receive)
        except FlightCancelled:
            raise broken_off(self._upstream) from None
        return _copy(joined.result, self._counted(wanted, joined.coalesced))

    async def _stream(self, wanted: Wanted, scope: Scope, receive: Receive) -> Response:
        kept = False

        async def opened() -> AsyncIterator[bytes]:
            nonlocal kept
            with closing(self._buffers.lease()) as held:
                reply = await self._ask(wanted, scope, held)
                kept = self._is_of(wanted, reply)
                async with aclosing(source(reply, self._shaped)) as chunks:
                    async for chunk in chunks:
                        yield chunk

        def on_complete(recording: tuple[bytes, ...]) -> None:
            if not kept:
                return
            if sum(map(len, recording)) <= CHECKED_AT_ONCE_BYTES:
                self._keep(wanted, recorded(recording))
            else:
                self._tasks.start(later(recording))

        async def later(recording: tuple[bytes, ...]) -> None:
            self._keep(wanted, await asyncio.to_thread(recorded, recording))

        deadline = deadline_of(wanted.call, self._upstream)
        async with AsyncExitStack() as stack:
            reader = await stack.enter_async_context(self._streams.subscribe(wanted.flight, opened, on_complete))
            try:
                async with self._within(deadline):
                    content_type = await run_until_disconnect(anext(reader), receive)
            except NotStreamed as error:
                return _copy(error.answer, self._counted(wanted, reader.coalesced))
            except FlightCancelled:
                raise broken_off(self._upstream) from None
            chunks = self._chunks(reader, deadline)
            x_cache = self._counted(wanted, reader.coalesced)
            return SharedStream(chunks, stack.pop_all(), content_type.decode("latin-1"), x_cache, deadline)

    async def _chunks(self, reader: StreamSubscriber, deadline: Deadline) -> AsyncIterator[bytes]:
        try:
            while True:
                async with asyncio.timeout(deadline.left):
                    chunk = await anext(reader)
                yield chunk
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise late(self._upstream) from None

    @asynccontextmanager
    async def _within(self, deadline: Deadline) -> AsyncIterator[None]:
        """How long one client waits for what others may wait for, too.

        Raises:
            DeadlineExceeded: longer than its time limit.
        """
        try:
            async with asyncio.timeout(deadline.left):
                yield
        except TimeoutError:
            raise late(self._upstream) from None

    async def _ask(self, wanted: Wanted, scope: Scope, held: BufferLease) -> Reply:
        shared = None if wanted.is_alone else Deadline(time.monotonic() + SHARED_SECONDS, time.monotonic)
        reply = await send(replace(wanted.call, held=held), self._upstream, shared)
        request_state(scope)["timings"].update(reply.timings)
        return reply

    def _is_of(self, wanted: Wanted, reply: Reply) -> bool:
        """The answer may be kept: it is a success, and of the model that its key names."""
        return reply.model == wanted.model and reply.status == 200

    def _shaped(self, reply: Reply, body: bytes) -> Whole:
        return whole_answer(reply, body, self._upstream)

    def _keep(self, wanted: Wanted, value: Kept | None) -> None:
        """None is what is not whole."""
        if value is not None:
            self._stores[wanted.question.kind].set_many([(wanted.key, value)])

    def _counted(self, wanted: Wanted, coalesced: bool) -> XCache:
        if coalesced:
            self._cache.metrics.coalesced(wanted.question.kind)
        return "coalesced" if coalesced else "miss"


def _copy(shared: Whole, x_cache: XCache) -> Whole:
    """One client's copy of an answer that several get."""
    copy = Whole(bytes(shared.body), shared.status_code, {**shared.headers, "x-cache": x_cache})
    copy.held = shared.held
    return copy
