"""Answers of an encoder to bodies that come again, byte for byte: given without asking it.

The encoder keeps every text's result, in Redis too, and finds it in whichever request it comes. What is here saves the
way to it, the reading and the writing of numbers: see decision 13.
"""

import time
from collections.abc import Callable
from typing import Literal

from fastapi.responses import Response
from starlette.types import Receive, Scope

from gateway.answers.kept import Kept, KeptCodec, find, hit
from gateway.answers.refusals import Refusals, terms
from gateway.calls import Call
from gateway.keys.ring import Key
from gateway.relay import call_of, relay
from gateway.reply import Reply
from gateway.upstreams import Upstream
from onecard.cache import cache_policy
from onecard.cache.keys import Keyspace
from onecard.cache.tiers import Cache, TypedCache
from onecard.errors import TooBusy
from onecard.models.identity import ModelIdentity
from onecard.web.middleware import request_state
from onecard.web.recent_bodies import RecentBodies

LARGEST_BODY_BYTES = 256_000
"""Longer bodies are only relayed: few come twice."""
LARGEST_ANSWER_BYTES = 64_000
"""Larger answers are not kept: what indexes texts in batches comes once, and would push the LLM's answers out. It is
three vectors of 768 numbers as text, or eleven as base64."""


class Repeats:
    """Answers one encoder's route."""

    def __init__(
        self, upstream: Upstream, kind: Literal["embedding", "sentiment"], cache: Cache, ttl_seconds: int
    ) -> None:
        """Keep answers of `upstream` for `ttl_seconds` in the memory of `cache`, each under the model that gave it."""
        self._upstream = upstream
        self._kind = kind
        memory = cache.in_memory()
        self._enabled = memory.enabled
        self._store = TypedCache(memory, kind, KeptCodec(), ttl_seconds)
        self._refusals = Refusals(time.monotonic)
        self._known = RecentBodies()
        """What is kept, most likely: it is answered under overload, too."""

    def check(self, scope: Scope, body: bytes) -> None:
        """Refuse what the encoder would refuse, before anything is done for it.

        Raises:
            TooBusy: as `Refusals.check`.
        """
        key: Key | None = request_state(scope).get("caller")
        # A key that may not use all models is refused for that first.
        if (key is None or key.models is None) and body not in self._known:
            self._refusals.check(scope, body)

    async def answer(self, scope: Scope, receive: Receive) -> Response:
        """The answer to a request, as `gateway.relay.relay` gives it; `x-cache` is the encoder's where it was asked.

        Raises:
            TooBusy, Unavailable, BadUpstream, DeadlineExceeded: as `relay`.
        """
        call = call_of(scope)
        allowed = cache_policy.parse(call.headers.get("cache-control"))
        model = self._upstream.pool.model
        if model is None or not allowed.store or not self._enabled or len(call.body) > LARGEST_BODY_BYTES:
            return await self._ask(scope, receive, call)
        key = self._key(call, model)
        if allowed.read and (kept := await find(self._store, key, request_state(scope)["timings"])):
            return hit(kept)

        def keep(reply: Reply, body: bytes) -> None:
            if reply.model == model and reply.status == 200 and len(body) <= LARGEST_ANSWER_BYTES:
                self._store.set_many([(key, Kept(reply.headers.get("content-type", "application/json"), body))])
                self._known.add(call.body)

        return await self._ask(scope, receive, call, keep)

    async def _ask(
        self, scope: Scope, receive: Receive, call: Call, keep: Callable[[Reply, bytes], None] | None = None
    ) -> Response:
        try:
            self._refusals.check(scope, call.body)
        except TooBusy:
            request_state(scope)["quiet"] = True
            raise
        response = await relay(scope, receive, self._upstream, call, keep)
        if response.status_code == TooBusy.status:
            self._refusals.add(terms(scope, call.body), call.body, response)
        elif response.status_code == 200:
            self._refusals.answered(call.body)
        return response

    def _key(self, call: Call, model: ModelIdentity) -> bytes:
        space = Keyspace(self._kind, model.model, model.revision, model.fingerprint)
        return space.for_body(call.headers.get("content-type", ""), call.body)
