"""The bounds of one request, as an ASGI layer inside the edge of either engine."""

from starlette.types import ASGIApp, Receive, Scope, Send

from llm_service.request_limits import RequestLimits, check_request
from onecard.web.middleware import request_state


class RequestLimitsMiddleware:
    """Lets no request in that asks for too much."""

    def __init__(self, app: ASGIApp, *, bounds: RequestLimits) -> None:
        self._app = app
        self._limits = bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on.

        Raises:
            InvalidRequest, BodyTooLarge: as `check`.
        """
        if scope["type"] == "http":
            state = request_state(scope)
            check_request(scope["path"], scope["headers"], len(state.get("body", b"")), state.get("json"), self._limits)
        await self._app(scope, receive, send)
