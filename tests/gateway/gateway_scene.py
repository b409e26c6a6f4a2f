"""A gateway, a real Redis, and a canned LLM service that numbers its answers; and requests for them."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from onecard.models.identity import ModelIdentity
from tests.shared.cache.support import RedisProcess
from tests.support import Server, free_port, serving

CHAT = "/v1/chat/completions"
MODEL = ModelIdentity("canned/model", "r1", "0" * 16)


@dataclass(frozen=True)
class GatewayScene:
    """A gateway, what is behind it, and a client."""

    redis: RedisProcess
    canned: Server
    gateway: Server
    client: httpx.Client

    def seen(self, what: str) -> Any:
        return httpx.get(f"{self.canned.url}/seen").json()[what]

    def set_model(self, model: ModelIdentity | None) -> None:
        """Exchange the service's model, and let the gateway's readiness see it."""
        httpx.post(f"{self.canned.url}/tell", content=model.header_value() if model else "")
        parts = self.client.get("/health/ready").json()["parts"]
        assert parts["llm"]["status"] == parts["embedding"]["status"] == "ok"

    def open(self) -> None:
        """Let the answers that wait go on."""
        httpx.post(f"{self.canned.url}/open")

    def post(self, body: dict[str, Any], path: str = CHAT, **headers: str) -> httpx.Response:
        return self.client.post(path, json=body, headers=headers)

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


@contextmanager
def scene(redis: RedisProcess, **settings: str) -> Iterator[GatewayScene]:
    nobody = f"http://127.0.0.1:{free_port()}"
    with serving("tests.scripted_upstream", port_variable="CANNED_PORT", env={}) as canned:
        env = {"LLM_URL": canned.url, "SENTIMENT_URL": nobody, "EMBEDDING_URL": canned.url, "REVIEW_URL": nobody}
        env |= {"REDIS_PORT": str(redis.port), **settings}
        httpx.post(f"{canned.url}/tell", content=MODEL.header_value())
        with (
            serving("gateway", port_variable="GATEWAY_PORT", env=env) as gateway,
            httpx.Client(base_url=gateway.url, timeout=30) as client,
        ):
            yield GatewayScene(redis, canned, gateway, client)


numbers = itertools.count()


def chat_request(finish_reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    """A request for an answer, unlike all others."""
    message: dict[str, Any] = {"role": "assistant", "content": "안녕하세요", "reasoning": None, "tool_calls": []}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"case": "say", "nonce": next(numbers), "answer": {"choices": [choice]}, **more}


def stream_request(
    *, count: int = 3, finish_reason: str | None = "stop", done: bool = True, **more: Any
) -> dict[str, Any]:
    """A request for a stream, unlike all others."""
    events: list[Any] = [{"choices": [{"index": 0, "delta": {"content": f"가{n}"}}]} for n in range(count)]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]})
    events.append({"choices": [], "usage": {"total_tokens": 7}})
    body = {"case": "say", "nonce": next(numbers), "stream": True, "events": [*events, *(["[DONE]"] if done else [])]}
    return {**body, **more}


async def open_streams(
    own: GatewayScene, body: dict[str, Any], stack: AsyncExitStack, many: int
) -> list[httpx.Response]:
    """Many clients that have the beginning of one stream."""
    limits = httpx.Limits(max_connections=None)
    client = await stack.enter_async_context(httpx.AsyncClient(base_url=own.gateway.url, timeout=30, limits=limits))

    async def ask() -> httpx.Response:
        return await stack.enter_async_context(client.stream("POST", CHAT, json=body))

    return list(await asyncio.gather(*(ask() for _ in range(many))))


def eventually(holds: Callable[[], bool]) -> None:
    asyncio.run(eventually_async(holds))


async def eventually_async(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.02)
