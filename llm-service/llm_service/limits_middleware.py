"""ASGI middleware that applies the request limits, for both engines.

It runs inside the request middleware, which has read and parsed the body.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from llm_service.request_limits import RequestLimits, check_request
from onecard.web.middleware import request_state


class RequestLimitsMiddleware:
    """Rejects requests that exceed the limits of one request."""

    def __init__(self, app: ASGIApp, *, bounds: RequestLimits) -> None:
        self._app = app
        self._limits = bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check an HTTP request and pass it on.

        Args:
            scope: The connection's scope.
            receive: Passed on.
            send: Passed on.

        Raises:
            InvalidRequest: See `check_request`.
            BodyTooLarge: See `check_request`.
        """
        if scope["type"] == "http":
            state = request_state(scope)
            check_request(scope["path"], scope["headers"], len(state.get("body", b"")), state.get("json"), self._limits)
        await self._app(scope, receive, send)
