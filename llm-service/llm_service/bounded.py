"""The bounds of one request, as an ASGI layer inside the edge of either engine."""

from starlette.types import ASGIApp, Receive, Scope, Send

from llm_service.bounds import Bounds, check
from onecard.edge import state_of


class Bounded:
    """Lets no request in that asks for too much."""

    def __init__(self, app: ASGIApp, *, bounds: Bounds) -> None:
        self._app = app
        self._bounds = bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on.

        Raises:
            InvalidRequest, BodyTooLarge: as `check`.
        """
        if scope["type"] == "http":
            state = state_of(scope)
            check(scope["path"], scope["headers"], len(state.get("body", b"")), state.get("json"), self._bounds)
        await self._app(scope, receive, send)
