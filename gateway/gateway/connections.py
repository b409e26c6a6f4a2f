"""Connections to services, kept for the requests to come."""

import asyncio
from collections import deque
from collections.abc import Mapping
from functools import partial

from gateway.http1 import Answer, Connection, NoAnswer, Origin, request_head

IDLE_SECONDS = 15.0
"""How long a connection is kept that nobody uses: shorter than the services keep theirs (`onecard.server`), since a
request on one that is just being closed fails."""


class Connections:
    """As many connections to each origin as there are requests at it at a time; of the idle ones the latest is used
    again."""

    def __init__(self, connect_seconds: float) -> None:
        """Wait for a connection for `connect_seconds` at most."""
        self._connect_seconds = connect_seconds
        self.open: set[Connection] = set()
        """All of them, in use and idle."""
        self._idle: dict[Origin, deque[tuple[float, Connection]]] = {}
        """With the second of the loop's clock since when, the longest first."""
        self._sweep: asyncio.TimerHandle | None = None

    async def ask(
        self, method: str, origin: Origin, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Answer:
        """The answer to a request, as far as its head. Close it.

        Raises:
            NoAnswer, BadAnswer: there is no connection or none in time, it ended, or what came is no answer.
            ValueError: the request is none.
        """
        head = request_head(method, origin, path, headers, len(body))
        connection = self._reused(origin) or await self._connect(origin)
        return await connection.ask(head, body)

    def close(self) -> None:
        """End all of them."""
        if self._sweep is not None:
            self._sweep.cancel()
        self._idle.clear()
        for connection in tuple(self.open):
            connection.abort()

    def _reused(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        oldest = asyncio.get_running_loop().time() - IDLE_SECONDS
        while idle:
            since, connection = idle.pop()
            if connection.is_free and since > oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: Origin) -> Connection:
        def made() -> Connection:
            return Connection(partial(self._keep, origin), self.open.discard)

        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await loop.create_connection(made, origin.host, origin.port, ssl=origin.tls)
        except (OSError, TimeoutError, UnicodeError):  # The last for a host name that is none.
            raise NoAnswer("no connection") from None
        self.open.add(connection)
        return connection

    def _keep(self, origin: Origin, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        self._idle.setdefault(origin, deque()).append((loop.time(), connection))
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_SECONDS, self._end_idle)

    def _end_idle(self) -> None:
        """End those that nobody has used for so long, and forget those that have ended by themselves."""
        loop = asyncio.get_running_loop()
        oldest = loop.time() - IDLE_SECONDS
        for idle in self._idle.values():
            while idle and (idle[0][0] <= oldest or not idle[0][1].is_free):
                idle.popleft()[1].abort()
        self._sweep = loop.call_later(IDLE_SECONDS, self._end_idle) if any(self._idle.values()) else None
