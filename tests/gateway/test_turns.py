"""A service that takes one request at a time, behind a gateway with a short queue, and two keys that want it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.gateway.support import PATH, canned_gateway, error_of, key, secret_of, write_keys
from tests.shared.cache.support import eventually
from tests.support import Server, serving

QUEUE = 4


@pytest.fixture
def canned() -> Iterator[Server]:
    """A canned LLM service, its gate closed."""
    with serving("tests.scripted_upstream", port_variable="CANNED_PORT", env={}) as server:
        yield server


@pytest.fixture
def door(canned: Server, tmp_path: Path) -> Iterator[Server]:
    """The gateway."""
    write_keys(tmp_path / "keys.json", [key("many"), key("few")])
    env = {"API_KEYS_FILE": str(tmp_path / "keys.json"), "CACHE_ENABLED": "false"}
    with canned_gateway(canned, {**env, "UPSTREAM_CONCURRENCY": "1", "UPSTREAM_QUEUE": str(QUEUE)}) as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=60) as opened:
        yield opened


class Callers:
    """Those who want the service, and what became of them."""

    def __init__(self, client: httpx.AsyncClient, door: Server) -> None:
        self._client = client
        self._door = door

    async def ask(self, caller: str, body: dict[str, object], **headers: str) -> httpx.Response:
        """One request."""
        headers = {"authorization": f"Bearer {secret_of(caller)}", **headers}
        return await self._client.post(self._door.url + PATH, json={**body, "caller": caller}, headers=headers)

    async def begin(self, caller: str, body: dict[str, object], waiting: int) -> "asyncio.Task[httpx.Response]":
        """One request that is under way once so many wait."""
        task = asyncio.create_task(self.ask(caller, body))
        await eventually(lambda: self.figure("waiting") == waiting)
        return task

    async def models(self) -> list[str]:
        """What the gateway lists."""
        headers = {"authorization": f"Bearer {secret_of('few')}"}
        cards = (await self._client.get(self._door.url + "/v1/models", headers=headers)).json()["data"]
        return [card["id"] for card in cards]

    def figure(self, name: str) -> float:
        """A figure of the LLM service."""
        headers = {"authorization": f"Bearer {secret_of('few')}"}
        lines = httpx.get(self._door.url + "/metrics", headers=headers).text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"onecard_upstream_{name}{{"))


async def test_a_flood_of_one_key_neither_delays_nor_crowds_out_another(
    canned: Server, door: Server, client: httpx.AsyncClient
) -> None:
    """A stream has the service to itself until its end. Of those who wait, the keys take turns, and a full queue
    refuses the newest of the longest line."""
    callers, echo = Callers(client, door), {"case": "echo"}
    stream = asyncio.create_task(callers.ask("many", {"case": "stream", "wait": True, "count": 1}))
    await eventually(lambda: httpx.get(canned.url + "/seen").json()["running"] == 1)
    assert await callers.models() == ["canned/stand-in"]  # The gateway's own question does not wait.
    flood = [await callers.begin("many", echo, number + 1) for number in range(QUEUE)]
    refused = await callers.ask("many", echo)
    assert error_of(refused, 429)["code"] == "too_busy"
    assert int(refused.headers["retry-after"]) >= QUEUE
    few = [await callers.begin("few", echo, QUEUE) for _ in range(2)]
    assert [error_of(await task, 429)["code"] for task in flood[2:]] == ["too_busy", "too_busy"]
    await client.post(canned.url + "/open")
    assert {task.status_code for task in await asyncio.gather(stream, *flood[:2], *few)} == {200}
    served = (await client.get(canned.url + "/seen")).json()["callers"]
    assert served == ["many", "many", "few", "many", "few"]
    assert (callers.figure("waiting"), callers.figure("queue_full_total")) == (0, 3)
    assert callers.figure("wait_seconds_count") == 4


async def test_who_leaves_or_is_late_no_longer_waits(canned: Server, door: Server, client: httpx.AsyncClient) -> None:
    """The service never hears of either, and the next one has the turn."""
    callers, echo = Callers(client, door), {"case": "echo"}
    stream = asyncio.create_task(callers.ask("many", {"case": "stream", "wait": True, "count": 1}))
    await eventually(lambda: httpx.get(canned.url + "/seen").json()["running"] == 1)
    late = await callers.ask("few", echo, **{"x-onecard-timeout-ms": "200"})
    assert error_of(late, 504)["code"] == "deadline_exceeded"
    leaver = await callers.begin("few", echo, 1)
    last = await callers.begin("few", echo, 2)
    leaver.cancel()
    await eventually(lambda: callers.figure("waiting") == 1)
    await client.post(canned.url + "/open")
    assert [answer.status_code for answer in await asyncio.gather(stream, last)] == [200, 200]
    assert (await client.get(canned.url + "/seen")).json()["requests"] == 2
