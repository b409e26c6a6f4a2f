"""A new connection: whether there is room for it, and what it speaks."""

import asyncio
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.auto_zttp_impl import AutoZttpProtocol

from onecard.errors import Unavailable
from onecard.protocol.cork import CorkedTransport
from onecard.protocol.http1 import Http1
from onecard.protocol.http2 import Http2
from onecard.protocol.limits import Limits
from onecard.protocol.patience import Farewell, too_slow


class Door(AutoZttpProtocol):
    """Sees a connection until its first bytes have told which protocol it speaks."""

    def __init__(self, *args: Any, limits: Limits, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._farewell: Farewell | None = None
        self._told = False

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = corked = CorkedTransport(transport, self.loop)  # type: ignore[assignment]
        self._limits.connections = self.connections
        if len(self.connections) < self._limits.most_connections:
            self.connections.add(self)
            self.timeout_task = self.loop.call_later(self._limits.header_seconds, self._give_up)
        elif self._limits.turn_away():
            self._told = True
            self._farewell = Farewell(corked, self.loop, Unavailable("There are too many connections.", retry_after=5))
        else:
            transport.abort()

    def _give_up(self) -> None:
        self._farewell = Farewell(self.transport, self.loop, too_slow(self._limits.header_seconds))  # type: ignore[arg-type]

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._farewell is not None:
            self._farewell.timer.cancel()
            self._limits.telling -= self._told

    @override
    def data_received(self, data: bytes) -> None:
        if self._farewell is None:
            super().data_received(data)
        else:
            self._farewell.drop(data)

    @override
    def _switch(self, http2: bool, initial_data: bytes = b"") -> None:
        kind: type[Http1 | Http2] = Http2 if http2 else Http1
        given = {"config": self.config, "server_state": self.server_state, "app_state": self.app_state}
        protocol = kind(**given, _loop=self.loop, limits=self._limits)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)  # type: ignore[arg-type]
        protocol.data_received(initial_data)
