"""Bodies of requests are counted while they come in, and what else is held for a request while it lasts."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onecard.web.buffer_semaphore import BufferSemaphore


class Counted:
    """ASGI layer outside the edge, which reads the bodies: a sender for whom there is no room is not read from, and
    then refused."""

    def __init__(self, app: ASGIApp, *, buffers: BufferSemaphore, most_bytes: int) -> None:
        """Take the longest body that the edge keeps; of a longer one it drops all."""
        self._app = app
        self._buffers = buffers
        self._most = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface. What the request holds is in the state that routes read, as `held`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held = self._buffers.lease()
        room = self._most

        async def counted() -> Message:
            nonlocal room
            message = await receive()
            if count := min(len(message.get("body", b"")), room):
                room -= count
                await held.acquire(count, "body")
            return message

        try:
            await self._app({**scope, "state": {**scope.get("state", {}), "held": held}}, counted, send)
        finally:
            held.close()
