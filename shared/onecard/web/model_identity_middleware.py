"""Names the model in every response of a service that runs one."""

from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onecard.models.identity import MODEL_HEADER, ModelIdentity


class ModelIdentityMiddleware:
    """ASGI middleware that adds `MODEL_HEADER` to every response, once the model is known."""

    def __init__(self, app: ASGIApp, identity: Callable[[Scope], ModelIdentity | None]) -> None:
        """Wrap an app.

        Args:
            app: the ASGI app.
            identity: finds the identity in the scope of a request that the app has seen; None before the model is
                known.
        """
        self._app = app
        self._identity = identity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_identity(message: Message) -> None:
            identity = self._identity(scope) if message["type"] == "http.response.start" else None
            if identity is not None:
                MutableHeaders(scope=message)[MODEL_HEADER] = identity.header_value()
            await send(message)

        await self._app(scope, receive, send_with_identity)
