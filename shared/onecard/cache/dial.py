"""Connecting to Redis."""

import asyncio
import ssl
from collections.abc import Callable

from onecard.cache.address import Address
from onecard.cache.link import Link
from onecard.resolver import Resolver

CONNECT_SECONDS = 1.0
"""Longest attempt to connect, name look-up and TLS included. No request waits for it."""


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
