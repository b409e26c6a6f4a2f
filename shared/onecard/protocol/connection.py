"""A new connection: accept or refuse it, and detect whether it speaks HTTP/1 or HTTP/2."""

import asyncio
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.auto_zttp_impl import AutoZttpProtocol

from onecard.errors import Unavailable
from onecard.protocol.http1 import Http1
from onecard.protocol.http2 import Http2
from onecard.protocol.limits import ConnectionLimits
from onecard.protocol.timeouts import LingeringClose, header_timeout_error
from onecard.protocol.write_coalescing import CoalescingTransport


class ConnectionProtocol(AutoZttpProtocol):
    """Handles a connection until its first bytes show which protocol it speaks."""

    def __init__(self, *args: Any, limits: ConnectionLimits, **options: Any) -> None:
        """Prepare a connection; uvicorn calls this.

        Args:
            args: uvicorn's.
            limits: shared by all connections of the server.
            options: uvicorn's.
        """
        super().__init__(*args, **options)
        self._limits = limits
        self._lingering_close: LingeringClose | None = None
        self._counted_as_refusing = False

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = coalescing = CoalescingTransport(transport, self.loop)  # type: ignore[assignment]
        self._limits.connections = self.connections
        if len(self.connections) < self._limits.max_connections:
            self.connections.add(self)
            self.timeout_task = self.loop.call_later(self._limits.header_timeout_seconds, self._on_request_timeout)
        elif self._limits.count_refusal():
            self._counted_as_refusing = True
            self._lingering_close = LingeringClose(
                coalescing, self.loop, Unavailable("There are too many connections.", retry_after=5)
            )
        else:
            transport.abort()

    def _on_request_timeout(self) -> None:
        error = header_timeout_error(self._limits.header_timeout_seconds)
        self._lingering_close = LingeringClose(self.transport, self.loop, error)  # type: ignore[arg-type]

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._lingering_close is not None:
            self._lingering_close.timer.cancel()
            self._limits.refusing -= self._counted_as_refusing

    @override
    def data_received(self, data: bytes) -> None:
        if self._lingering_close is None:
            super().data_received(data)
        else:
            self._lingering_close.discard(data)

    @override
    def _switch(self, http2: bool, initial_data: bytes = b"") -> None:
        kind: type[Http1 | Http2] = Http2 if http2 else Http1
        arguments = {"config": self.config, "server_state": self.server_state, "app_state": self.app_state}
        protocol = kind(**arguments, _loop=self.loop, limits=self._limits)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)  # type: ignore[arg-type]
        protocol.data_received(initial_data)
