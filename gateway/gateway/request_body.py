"""Bodies of requests: what they take up while they come in, and the JSON in them, which is parsed once."""

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onecard.web import request_parsing
from onecard.web.buffer_semaphore import BufferSemaphore
from onecard.web.middleware import request_state

MAX_EXACT_BYTES = 256_000
"""Longer bodies are not parsed exactly: a cache key of one would take over 5 ms of the event loop, and few come twice.
"""


class JsonBody:
    """A request's body, parsed when somebody asks for its fields, and once."""

    def __init__(self, body: bytes, *, is_exact: bool) -> None:
        """Take whether somebody will ask for the exact fields: the others then use those."""
        self.body = body
        self._is_exact = is_exact

    @cached_property
    def exact(self) -> Mapping[str, Any] | None:
        """The fields, as Python's parser reads them; None of what is no JSON object, or is too long.

        orjson, with which the services look at a body first, makes one number of many long integers. Both take the
        last of several fields with one name.
        """
        if len(self.body) > MAX_EXACT_BYTES:
            return None
        try:
            # Decoded here, since the parser would guess at UTF-16 too, which the services refuse.
            fields = json.loads(self.body.decode())
        except (ValueError, RecursionError):
            return None
        return fields if isinstance(fields, dict) else None

    @cached_property
    def fields(self) -> Mapping[str, Any]:
        """The fields of a body that its service will check; none of what is no JSON object."""
        exact = self.exact if self._is_exact else None
        return request_parsing.json_fields(self.body) if exact is None else exact


def json_of(scope: Scope, *, is_exact: bool = False) -> JsonBody:
    """The request's body, parsed for whoever has asked before. The first to ask says whether anybody will ask for the
    exact fields."""
    state = request_state(scope)
    found: JsonBody | None = state.get("json_body")
    if found is None:
        found = state["json_body"] = JsonBody(state["body"], is_exact=is_exact)
    return found


class RequestBodyBudget:
    """ASGI layer outside the edge, which reads the bodies: a sender for whom there is no room is not read from, and
    then refused."""

    def __init__(self, app: ASGIApp, *, buffers: BufferSemaphore, most_bytes: int) -> None:
        """Take the longest body that the edge keeps; of a longer one it drops all."""
        self._app = app
        self._buffers = buffers
        self._max_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface. What the request holds is in the state that routes read, as `held`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held = self._buffers.lease()
        room = self._max_bytes

        async def counted() -> Message:
            nonlocal room
            message = await receive()
            if count := min(len(message.get("body", b"")), room):
                room -= count
                await held.acquire(count, "body")
            return message

        try:
            await self._app({**scope, "state": {**scope.get("state", {}), "held": held}}, counted, send)
        finally:
            held.close()
