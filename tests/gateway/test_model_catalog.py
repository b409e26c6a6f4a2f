"""Fetches of the services' model cards give back the buffer space that they took."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from gateway.telemetry.metrics import UpstreamMetrics
from gateway.upstream import model_catalog
from gateway.upstream.concurrency_limiter import FairConcurrencyLimiter
from gateway.upstream.http_client import HttpClient
from gateway.upstream.load_balancer import LoadBalancer
from gateway.upstream.model_catalog import MAX_CARDS_BYTES, ModelCatalog
from gateway.upstream.services import Upstream, UpstreamTimeouts
from onecard.web.buffer_semaphore import BufferSemaphore

FETCHES = 40
CARD = {"id": "m", "padding": "x" * (MAX_CARDS_BYTES // 8)}
"""So many fetches need five times the space."""


@asynccontextmanager
async def service(body: bytes, sent: int | None = None) -> AsyncIterator[Upstream]:
    """A service that answers everything with this body, or with so many bytes of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body[:sent])
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, aclosing(HttpClient(2.0)) as client:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        pool = LoadBalancer("llm", [url], UpstreamMetrics(CollectorRegistry()).of("llm"))
        limiter = FairConcurrencyLimiter(9, 9, pool.metrics)
        yield Upstream("llm", client, pool, limiter, {}, UpstreamTimeouts(60, 60, 60))


@pytest.fixture
def semaphores(monkeypatch: pytest.MonkeyPatch) -> list[BufferSemaphore]:
    """Those that the catalog takes space from."""
    made: list[BufferSemaphore] = []

    def remember(max_bytes: int) -> BufferSemaphore:
        made.append(BufferSemaphore(max_bytes))
        return made[-1]

    monkeypatch.setattr(model_catalog, "BufferSemaphore", remember, raising=False)
    return made


async def test_fetches_without_end_leave_nothing_reserved(semaphores: list[BufferSemaphore]) -> None:
    """Each has its answer, however many came before."""
    async with service(json.dumps({"data": [CARD]}).encode()) as upstream:
        catalog = ModelCatalog()
        for _ in range(FETCHES):
            assert await catalog.cards(upstream) == [CARD]
    assert [semaphore.used_bytes for semaphore in semaphores] == [0] * FETCHES


@pytest.mark.parametrize(("body", "sent"), [(b"x" * 100_000, None), (b"x" * 300_000, 280_000), (b"x" * 9, 4)])
async def test_neither_do_fetches_that_fail(semaphores: list[BufferSemaphore], body: bytes, sent: int | None) -> None:
    """What is no list, or breaks off."""
    async with service(body, sent) as upstream:
        assert await ModelCatalog().cards(upstream) == []
    assert [semaphore.used_bytes for semaphore in semaphores] == [0]
