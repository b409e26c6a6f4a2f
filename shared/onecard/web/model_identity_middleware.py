"""A service with a model tells in every answer whose it is."""

from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onecard.models.identity import MODEL_HEADER, ModelIdentity


class ModelIdentityMiddleware:
    """ASGI middleware: every answer tells whose it is, once the engine has started."""

    def __init__(self, app: ASGIApp, identity: Callable[[Scope], ModelIdentity | None]) -> None:
        """`identity` finds it, with the scope of a request that the app has seen."""
        self._app = app
        self._identity = identity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def tell(message: Message) -> None:
            identity = self._identity(scope) if message["type"] == "http.response.start" else None
            if identity is not None:
                MutableHeaders(scope=message)[MODEL_HEADER] = identity.header_value()
            await send(message)

        await self._app(scope, receive, tell)
