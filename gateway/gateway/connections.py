"""Connections to services, kept for the requests to come."""

import asyncio
import socket
from collections import deque
from collections.abc import Mapping
from functools import partial

from aiohappyeyeballs import AddrInfoType, start_connection

from gateway.http1 import Answer, Connection, NoAnswer
from gateway.origin import Origin, request_head
from onecard.resolver import Resolver

IDLE_SECONDS = 15.0
"""After so long without use a connection is not used again, and ends after twice as long at most: sooner than the
services end theirs (`onecard.server`), since a request on one that is just being ended fails."""
NAME_SECONDS = 10.0
"""How long a host name is taken to lead to the same addresses."""
NEXT_ADDRESS_SECONDS = 0.25
"""A host's next address is tried beside one that has not answered for so long (RFC 8305, section 5)."""
_REPEATABLE = ("GET", "DELETE")


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
        self._resolvers: dict[Origin, Resolver] = {}
        """Bounded: origins come from the settings."""
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def ask(self, method: str, origin: Origin, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer to a request, as far as its head. Close it.

        On a kept connection the service may end it at that very moment. What HTTP calls idempotent is then sent once
        more on a new one; whether anything else is, the caller decides.

        Raises:
            NoAnswer, BadAnswer: there is no connection or none in time, it ended, or what came is no answer.
            ValueError: the request is none.
        """
        head = request_head(method, origin, path, headers, len(body))
        if kept := self._reused(origin):
            try:
                return await kept.ask(head, body)
            except NoAnswer:
                if method not in _REPEATABLE or kept.has_heard:
                    raise
        connection = await self._connect(origin)
        return await connection.ask(head, body)

    def close(self) -> None:
        """End all of them."""
        self._is_closed = True
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
        try:
            async with asyncio.timeout(self._connect_seconds):
                connection = await self._connected(origin)
        except (OSError, TimeoutError, RuntimeError):  # The last is uvloop's word for some of the first.
            raise NoAnswer("no connection") from None
        self.open.add(connection)
        if self._is_closed:
            connection.abort()
        return connection

    async def _connected(self, origin: Origin) -> Connection:
        resolver = self._resolvers.get(origin)
        if resolver is None:
            resolver = self._resolvers[origin] = Resolver(origin.host, origin.port, NAME_SECONDS)
        addresses = [_info(address, origin.port) for address in await resolver.addresses()]
        connected = await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS)

        def made() -> Connection:
            return Connection(partial(self._keep, origin), self.open.discard)

        name = origin.host if origin.tls else None
        _, connection = await asyncio.get_running_loop().create_connection(
            made, sock=connected, ssl=origin.tls, server_hostname=name
        )
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


def _info(address: str, port: int) -> AddrInfoType:
    """An IP address as `socket.getaddrinfo` would give it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)
