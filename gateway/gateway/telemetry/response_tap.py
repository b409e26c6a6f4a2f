"""The only place that looks at a response on its way to the client."""

import time
from collections.abc import Callable

from starlette.types import Message, Scope, Send

from gateway.telemetry.token_usage import TokenUsageCounter
from onecard.web.middleware import request_state


async def _closed(message: Message) -> None:
    raise RuntimeError(f"{message['type']} after the end of the request")


class ResponseTap:
    """Passes a response on, records facts about it, and adds headers."""

    def __init__(self, send: Send) -> None:
        """Start before the response.

        Args:
            send: ASGI channel to the client.
        """
        self._send = send
        self.status = 0
        """0 until the response begins."""
        self.x_cache = ""
        self.first_byte_at: float | None = None
        """When the body began, in seconds of `time.perf_counter`; None before."""
        self.is_complete = False
        self.estimates_tokens = False
        """Whether tokens are needed even if the response does not report them."""
        self.token_usage: TokenUsageCounter | None = None
        """Counts the tokens of a model's response; None for other responses."""
        self.extra_headers: list[tuple[bytes, bytes]] = []
        self.before_last: Callable[[], None] | None = None
        """Called before the last bytes are sent, so that its effects precede the client's next request."""

    @classmethod
    def of(cls, scope: Scope, send: Send) -> "ResponseTap":
        """The tap of a request. The first call creates it.

        Args:
            scope: of the request.
            send: ASGI channel to the client, used by the first call.

        Returns:
            The tap, the same for all middleware.
        """
        state = request_state(scope)
        tap: ResponseTap | None = state.get("tap")
        if tap is None:
            tap = state["tap"] = cls(send)
        return tap

    def close(self) -> None:
        """Release the connection and the limits, when nothing more is sent.

        The request's state holds the tap, and both reach the state: a cycle, which would keep the request and its
        response in memory until a garbage collection.
        """
        self._send = _closed
        self.before_last = None

    async def send(self, message: Message) -> None:
        """The ASGI channel to use for the response.

        Args:
            message: what to send.
        """
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
