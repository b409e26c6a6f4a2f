"""HTTP clients towards other services."""

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from typing_extensions import override


class _Transport(AiohttpTransport):
    """httpx-aiohttp's transport, which lets some of aiohttp's own errors through (an answer that is not HTTP, say)."""

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except aiohttp.ClientError as error:
            raise httpx.RemoteProtocolError(type(error).__name__) from None


def connect(base_url: str, *, connect_seconds: float = 2.0, read_seconds: float | None = 60.0) -> httpx.AsyncClient:
    """A pooled client for one service. The caller closes it.

    aiohttp carries the bytes: behind httpx's interface it relays several times the requests per second
    of httpx's own transport on one core.

    Args:
        connect_seconds: longest wait for a connection.
        read_seconds: longest silence between two reads; None waits for ever.
    """
    timeout = httpx.Timeout(read_seconds, connect=connect_seconds)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    return httpx.AsyncClient(
        base_url=base_url,
        timeout=timeout,
        transport=_Transport(limits=limits),
        headers={"user-agent": "onecard"},
        trust_env=False,
    )
