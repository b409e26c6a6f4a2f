"""Where the limits meet requests: an ASGI layer inside the edge, round all routes.

Not in the guard, which decides by the headers alone and at once, while this waits for Redis. Not in the routes either:
an answer's headers and its tokens are seen here in one place, wherever the answer comes from.
"""

from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.keys.ring import Key
from gateway.limits.limits import Admission, Limits
from gateway.meter import Meter
from onecard.edge import state_of


class LimitsLayer:
    """Every POST of a known key counts: that is what makes models work. The limits are in the app's state."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise what it is refused with; the edge answers it."""
        key: Key | None = state_of(scope).get("caller") if scope["type"] == "http" else None
        if key is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        limits: Limits = scope["app"].state.service.limits
        admission = await limits.admit(key)
        state_of(scope)["counts_tokens"] = admission.counts_tokens
        counting = _Counting(limits, key, admission, send, state_of(scope))
        try:
            await self._app(scope, receive, counting.send)
        finally:
            counting.settle()


class _Counting:
    """One admitted request: headers on its answer, and its tokens."""

    def __init__(self, limits: Limits, key: Key, admission: Admission, send: Send, state: dict[str, Any]) -> None:
        self._limits = limits
        self._key = key
        self._headers = [(name.encode(), value.encode()) for name, value in admission.headers.items()]
        self._counts_tokens = admission.counts_tokens
        self._state = state
        self._send = send

    async def send(self, message: Message) -> None:
        """The ASGI interface."""
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            # Before the last bytes leave: a client's next request finds this one counted.
            self.settle()
        await self._send(message)

    def settle(self) -> None:
        """Count the tokens, once, also those of an answer that was broken off. Only models' routes have a meter."""
        meter: Meter | None = self._state.get("meter")
        if self._counts_tokens and meter is not None:
            self._counts_tokens = False
            self._limits.spent(self._key, meter.tokens())
