"""Where the limits meet requests: an ASGI layer inside the edge, round all routes.

Not in the guard, which decides by the headers alone and at once, while this waits for Redis. Not in the routes either:
an answer's headers and its tokens are seen here in one place, wherever the answer comes from.
"""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.keys.ring import Key
from gateway.limits import reserve
from gateway.limits.limits import Admission, Limits
from gateway.meter import Meter
from onecard.web.middleware import request_state


class LimitsLayer:
    """Whatever a known key has models do counts. The limits are in the app's state."""

    def __init__(self, app: ASGIApp, answer_tokens: int) -> None:
        """Expect `answer_tokens` of an answer whose request does not bound it."""
        self._app = app
        self._answer_tokens = answer_tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise what it is refused with; the edge answers it."""
        key: Key | None = request_state(scope).get("caller") if scope["type"] == "http" else None
        if key is None or not reserve.counts(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        limits: Limits = scope["app"].state.service.limits
        quota, tokens = limits.quota(key), 0
        request_state(scope)["counts_tokens"] = quota.tokens is not None
        if quota.tokens is not None:
            tokens = reserve.tokens(scope["method"], scope["path"], request_state(scope)["body"], self._answer_tokens)
        counting = _Counting(limits, key, await limits.admit(key, quota, tokens), send, request_state(scope))
        try:
            await self._app(scope, receive, counting.send)
        except HTTPException:
            counting.settle()
            raise
        finally:
            counting.settle(abandoned=True)


class _Counting:
    """One admitted request: headers on its answer, and its tokens."""

    def __init__(self, limits: Limits, key: Key, admission: Admission, send: Send, state: dict[str, Any]) -> None:
        self._limits = limits
        self._key = key
        self._admission: Admission | None = admission
        self._headers = [(name.encode(), value.encode()) for name, value in admission.headers.items()]
        self._state = state
        self._send = send
        self._begun = False

    async def send(self, message: Message) -> None:
        """The ASGI interface."""
        if message["type"] == "http.response.start":
            self._begun = True
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            # Before the last bytes leave: a client's next request finds this one counted.
            self.settle()
        await self._send(message)

    def settle(self, *, abandoned: bool = False) -> None:
        """Count the tokens, once. An answer that its client left before it began costs what was reserved: models have
        worked on it, and nobody knows how much. One that was left later costs as much of it as there was."""
        admission, self._admission = self._admission, None
        if admission is None or admission.reserved is None:
            return
        meter: Meter | None = self._state.get("meter")  # Only what is relayed has one.
        spent = meter.tokens() if meter is not None else 0
        self._limits.settle(self._key, admission, admission.reserved if abandoned and not self._begun else spent)
