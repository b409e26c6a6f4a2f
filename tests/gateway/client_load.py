"""Many clients of one gateway, and canned replicas behind it that can be lost in every way."""

import asyncio
import json
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx

from tests.gateway.support import PATH
from tests.shared.cache.support import eventually
from tests.support import Server, free_port, serving

CLIENTS = 16
DETECTION_SECONDS = 40.0
"""Longest wait for a gateway to find out what has become of a replica, on a busy machine."""


@dataclass(frozen=True)
class ReplicaPair:
    """A gateway and two replicas of its LLM service."""

    gateway: Server
    replicas: tuple[Server, Server]

    def seen(self, number: int, what: str) -> Any:
        """What that replica has counted."""
        return httpx.get(f"{self.replicas[number].url}/seen", timeout=30).json()[what]

    def set_fault(self, number: int, ailment: str) -> None:
        """What that replica does with every request; see `tests.scripted_upstream`."""
        httpx.post(f"{self.replicas[number].url}/ail", content=ailment, timeout=30)

    def open(self, number: int) -> None:
        """Let that replica's answers go on that wait."""
        httpx.post(f"{self.replicas[number].url}/open", timeout=30)

    def ready(self) -> bool:
        """Whether both are in service."""
        part = httpx.get(f"{self.gateway.url}/health/ready", timeout=30).json()["parts"]["llm"]
        return bool(part["status"] == "ok")


@contextmanager
def two_replicas(**env: str) -> Iterator[ReplicaPair]:
    """Both well; whatever state a test leaves them in, they end."""
    nobody = f"http://127.0.0.1:{free_port()}"
    with ExitStack() as closing:
        first, second = (
            closing.enter_context(serving("tests.scripted_upstream", port_variable="CANNED_PORT", env={}))
            for _ in range(2)
        )
        addresses = {
            "LLM_URL": f"{first.url},{second.url}",
            "SENTIMENT_URL": nobody,
            "EMBEDDING_URL": nobody,
            "REVIEW_URL": nobody,
        }
        env = {**addresses, "CACHE_ENABLED": "false", **env}
        gateway = closing.enter_context(serving("gateway", port_variable="GATEWAY_PORT", env=env))
        try:
            yield ReplicaPair(gateway, (first, second))
        finally:
            for server in (first, second):
                if server.process.poll() is None:
                    server.process.send_signal(signal.SIGCONT)


@dataclass
class ClientLoad:
    """What clients have got who ask one thing after another."""

    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    """Requests whose connection ended before a whole answer."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Once set, each client ends with the request that it has."""

    async def wait_for_more(self, count: int) -> None:
        """Wait for so many more answers."""
        goal = self.statuses.total() + count
        await eventually(lambda: self.statuses.total() >= goal, DETECTION_SECONDS)


@asynccontextmanager
async def client_load(gateway: Server, *, path: str = PATH, **body: object) -> AsyncIterator[ClientLoad]:
    """`CLIENTS` clients, until the end of the block."""
    told = ClientLoad()
    if path == PATH:
        body = {"case": "echo", **body}

    async def keep_asking(http: aiohttp.ClientSession) -> None:
        while not told.stopping.is_set():
            try:
                async with http.post(gateway.url + path, json=body) as answer:
                    await answer.read()
                    told.statuses[answer.status] += 1
            except aiohttp.ClientConnectionError:
                told.broken += 1
                await asyncio.sleep(0.05)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http, asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(keep_asking(http))
        try:
            yield told
        finally:
            told.stopping.set()


def head_of(path: str, body_bytes: int, key: str | None = None) -> str:
    """The head of a request with a body."""
    authorization = "" if key is None else f"authorization: Bearer {key}\r\n"
    lines = f"content-type: application/json\r\ncontent-length: {body_bytes}\r\n{authorization}\r\n"
    return f"POST {path} HTTP/1.1\r\nhost: x\r\n{lines}"


@contextmanager
def unread_client(
    gateway: Server, path: str, body: dict[str, Any], *, buffer_bytes: int = 4096, key: str | None = None
) -> Iterator[socket.socket]:
    """A client that has asked, and takes nothing that it does not read itself."""
    sent = json.dumps(body).encode()
    head = head_of(path, len(sent), key)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", gateway.port))
        connection.sendall(head.encode() + sent)
        yield connection


def errors_in(stream: bytes) -> list[dict[str, Any]]:
    """The error events of a stream."""
    events = [event.removeprefix(b"data: ") for event in stream.split(b"\n\n")]
    return [json.loads(event)["error"] for event in events if event.startswith(b'{"error"')]


async def eventually_polled(holds: Callable[[], bool]) -> None:
    """Wait for what asks a server each time, without keeping the event loop from the clients."""
    deadline = time.monotonic() + DETECTION_SECONDS
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.1)
