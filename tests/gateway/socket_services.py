"""Services that are a socket and what is said on it, and the gateway's connections to them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.upstream.http_client import HttpClient, HttpResponse, Origin

BODY = b'{"a": 1}'
OK = b"HTTP/1.1 200 OK\r\nx-cache: hit\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
WHOLE = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Cache: hit\r\n\r\nhello",
    "chunked": CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    "trailer": CHUNKED + b"5\r\nhello\r\n0\r\nx-cache: late\r\n\r\n",
    "hinted": b"HTTP/1.1 103 Early Hints\r\nx-cache: no\r\n\r\n" + OK + b"content-length: 5\r\n\r\nhello",
}
UNTIL_THE_END = OK + b"\r\nhello"


@asynccontextmanager
async def fake_service(*answers: bytes, ends: bool = False) -> AsyncIterator[tuple[Origin, list[int]]]:
    """A service that gives these answers, one for each request, the last again and again; and to which connection each
    request came."""
    asked: list[int] = []
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        mine = count
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(len(BODY))
                asked.append(mine)
                writer.write(answers[min(len(asked), len(answers)) - 1])
                await writer.drain()
                if ends:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield origin_of(server), asked


def origin_of(server: asyncio.Server) -> Origin:
    """Where it listens."""
    return Origin.of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


@asynccontextmanager
async def open_connections(seconds: float = 2.0) -> AsyncIterator[HttpClient]:
    connections = HttpClient(seconds)
    try:
        yield connections
    finally:
        await connections.aclose()


async def ask(connections: HttpClient, origin: Origin) -> HttpResponse:
    return await connections.request("POST", origin, "/x", {"content-type": "application/json"}, BODY)


async def read(connections: HttpClient, origin: Origin) -> bytes:
    answer = await ask(connections, origin)
    try:
        return await answer.read()
    finally:
        answer.close()


async def respond_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A service that answers one request as soon as it has its head."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(OK + b"content-length: 5\r\nconnection: close\r\n\r\nhello")
    await writer.drain()
    writer.close()
