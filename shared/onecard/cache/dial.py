"""Connecting to Redis."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable

from onecard.cache.address import Address
from onecard.cache.link import Link

CONNECT_SECONDS = 1.0
"""Longest attempt to connect, name look-up and TLS included. No request waits for it."""


class Resolver:
    """Looks one host name up, one look-up at a time.

    In a thread of its own: a look-up cannot be cancelled, and stuck ones would fill asyncio's thread pool, where
    texts are tokenised.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._running: asyncio.Future[list[str]] | None = None

    async def addresses(self) -> list[str]:
        """The host's IP addresses.

        Raises:
            OSError: there is no such host.
        """
        if self._running is None or self._running.done():
            loop = asyncio.get_running_loop()
            self._running = loop.create_future()
            thread = threading.Thread(target=self._look_up, args=(loop, self._running), daemon=True, name="cache-dns")
            thread.start()
        return await asyncio.shield(self._running)

    def _look_up(self, loop: asyncio.AbstractEventLoop, future: "asyncio.Future[list[str]]") -> None:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            outcome: list[str] | OSError = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one.
            outcome = error if isinstance(error, OSError) else OSError("not a host name")

        def tell() -> None:
            if isinstance(outcome, OSError):
                future.set_exception(outcome)
                future.exception()  # Retrieved: the one who asked may have given up.
            else:
                future.set_result(outcome)

        try:
            loop.call_soon_threadsafe(tell)
        except RuntimeError:
            return  # The loop has closed meanwhile.


async def dial(address: Address, resolver: Resolver, tls: ssl.SSLContext | None, factory: Callable[[], Link]) -> Link:
    """A link to the first of the host's addresses that takes one.

    Raises:
        OSError: none does. (TLS errors and timeouts are OSErrors, too.)
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_SECONDS):
        if address.unix_path is not None:
            return (await loop.create_unix_connection(factory, address.unix_path))[1]
        failure = OSError("no address")
        for ip in await resolver.addresses():
            try:
                return (
                    await loop.create_connection(
                        factory, ip, address.port, ssl=tls, server_hostname=address.host if tls else None
                    )
                )[1]
            except OSError as error:
                failure = error
        raise failure
