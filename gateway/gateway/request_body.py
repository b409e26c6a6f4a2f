"""Bodies of requests: the buffer space that they take up, and their JSON, which is parsed once."""

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onecard.web import request_parsing
from onecard.web.buffer_semaphore import BufferSemaphore, GrowingBuffer
from onecard.web.middleware import request_state

MAX_EXACT_BYTES = 256_000
"""Longer bodies are not parsed exactly: a cache key would take over 5 ms of the event loop, and few long bodies are
repeated."""


class JsonBody:
    """A request's body, parsed once, when its fields are first needed."""

    def __init__(self, body: bytes, *, is_exact: bool) -> None:
        """Keep the body.

        Args:
            body: as received.
            is_exact: whether the exact fields will be needed; then `fields` uses them instead of parsing twice.
        """
        self.body = body
        self._is_exact = is_exact

    @cached_property
    def exact(self) -> Mapping[str, Any] | None:
        """The fields as Python's parser reads them; None if the body is not a JSON object, or too long.

        orjson, with which the services parse a body first, rounds long integers to floats, so different bodies would
        look equal. Both take the last of several fields with the same name.
        """
        if len(self.body) > MAX_EXACT_BYTES:
            return None
        try:
            # Decoded here, because the parser would also accept UTF-16, which the services refuse.
            fields = json.loads(self.body.decode())
        except (ValueError, RecursionError):
            return None
        return fields if isinstance(fields, dict) else None

    @cached_property
    def fields(self) -> Mapping[str, Any]:
        """The fields, for uses where the service will check the body; empty if it is not a JSON object."""
        exact = self.exact if self._is_exact else None
        return request_parsing.json_fields(self.body) if exact is None else exact


def json_of(scope: Scope, *, is_exact: bool = False) -> JsonBody:
    """The JSON body of a request; the same object each time.

    Args:
        scope: of the request.
        is_exact: whether the exact fields will be needed. The first call decides.

    Returns:
        The body.
    """
    state = request_state(scope)
    body: JsonBody | None = state.get("json_body")
    if body is None:
        body = state["json_body"] = JsonBody(state["body"], is_exact=is_exact)
    return body


class RequestBodyBudget:
    """ASGI middleware outside the one that reads request bodies: it reserves buffer space for them.

    While there is no space, the body is not read. After a while the request is refused.
    """

    def __init__(self, app: ASGIApp, *, buffers: BufferSemaphore, max_bytes: int) -> None:
        """Wrap an app.

        Args:
            app: reads the body.
            buffers: shared by all requests.
            max_bytes: the longest body that the app keeps; it drops a longer one, so the rest needs no space.
        """
        self._app = app
        self._buffers = buffers
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface. The request state gets the lease of the space, as `held`.

        Args:
            scope: of the connection.
            receive: ASGI channel.
            send: ASGI channel.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        lease = self._buffers.lease(_key_of(scope))
        buffer = GrowingBuffer(lease, "small body", "body")
        uncounted_bytes = self._max_bytes

        async def counted() -> Message:
            nonlocal uncounted_bytes
            message = await receive()
            if count := min(len(message.get("body", b"")), uncounted_bytes):
                uncounted_bytes -= count
                await buffer.grow(count)
            return message

        try:
            await self._app({**scope, "state": {**scope.get("state", {}), "held": lease}}, counted, send)
        finally:
            lease.close()


def _key_of(scope: Scope) -> str:
    """The API key of a request, which stands for its caller until its name is known; empty if there is none."""
    # Nothing is reserved for a wrong key: it is checked before the body is read.
    words = [word for name, value in scope["headers"] if name == b"authorization" for word in value.split()]
    return words[-1].decode("latin-1") if words else ""
