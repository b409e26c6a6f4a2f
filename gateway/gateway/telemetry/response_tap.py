"""The one place where a response is looked at on its way to the client."""

import time
from collections.abc import Callable

from starlette.types import Message, Scope, Send

from gateway.telemetry.token_usage import TokenUsageCounter
from onecard.web.middleware import request_state


async def _closed(message: Message) -> None:
    raise RuntimeError(f"{message['type']} after the end of the request")


class ResponseTap:
    """Passes a response on, notes what it says of itself, and adds headers to it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        """0 until the response has begun."""
        self.x_cache = ""
        self.first_byte_at: float | None = None
        """Second of `time.perf_counter` at which the body began."""
        self.is_complete = False
        self.estimates_tokens = False
        """Somebody wants to know the tokens of a response that does not say."""
        self.token_usage: TokenUsageCounter | None = None
        """Counts the tokens of a response from a model."""
        self.extra_headers: list[tuple[bytes, bytes]] = []
        self.before_last: Callable[[], None] | None = None
        """Called before the last bytes leave: what it does is done when the client's next request comes."""

    @classmethod
    def of(cls, scope: Scope, send: Send) -> "ResponseTap":
        """The request's tap: made by the first layer that wants one, and used by all."""
        state = request_state(scope)
        tap: ResponseTap | None = state.get("tap")
        if tap is None:
            tap = state["tap"] = cls(send)
        return tap

    def close(self) -> None:
        """Let go of the connection and of the limits, once nothing more is sent.

        The request's state holds the tap, and both reach the state: a cycle, which would keep the request and its
        response in memory until a garbage collection.
        """
        self._send = _closed
        self.before_last = None

    async def send(self, message: Message) -> None:
        """The ASGI interface."""
        if message["type"] == "http.response.body":
            if body := message.get("body", b""):
                if self.first_byte_at is None:
                    self.first_byte_at = time.perf_counter()
                if self.token_usage is not None:
                    self.token_usage.feed(body)
            if not message.get("more_body", False):
                self.is_complete = True
                if self.before_last is not None:
                    self.before_last()
        elif message["type"] == "http.response.start":
            message = self._begin(message)
        await self._send(message)

    def _begin(self, message: Message) -> Message:
        headers = dict(message.get("headers", ()))
        self.status = message["status"]
        self.x_cache = headers.get(b"x-cache", b"").decode("latin-1")
        if self.token_usage is not None:
            self.token_usage.begin(self.status, headers.get(b"content-type", b""))
        if not self.extra_headers:
            return message
        return {**message, "headers": [*message.get("headers", ()), *self.extra_headers]}
