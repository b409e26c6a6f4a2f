"""A crowd that asks for one answer costs the real engine one generation. What is counted is the engine's own figure."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from onecard.models import identity
from onecard.models.identity import MODEL_HEADER
from tests.llm.conftest import STAND_IN, Target
from tests.llm.test_leaving import finished, running, wait_for
from tests.support import KEY, free_port, serving

CROWD = 100


@pytest.fixture(scope="module")
def cached(engine: Target) -> Iterator[Target]:
    """Each engine, behind a gateway that keeps answers in its memory; there is no Redis."""
    env = {"LLM_URL": engine.url, "API_KEY": KEY, "REDIS_PORT": str(free_port())}
    with serving("gateway", port_variable="GATEWAY_PORT", env=env) as gateway:
        yield Target(engine.engine, gateway.url, engine.server)


def chat(text: str, max_tokens: int) -> dict[str, object]:
    messages = [{"role": "user", "content": text}]
    body = {"model": STAND_IN, "messages": messages, "stream": True, "max_tokens": max_tokens, "ignore_eos": True}
    return {**body, "stream_options": {"include_usage": True}}


def request(client: httpx.AsyncClient, body: dict[str, object]) -> httpx.Request:
    return client.build_request("POST", "/v1/chat/completions", json=body)


async def ask(client: httpx.AsyncClient, body: dict[str, object]) -> tuple[str, bytes]:
    answer = await client.send(request(client, body))
    assert answer.status_code == 200, answer.text
    assert MODEL_HEADER not in answer.headers
    return answer.headers["x-cache"], answer.content


def client_of(target: Target) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {KEY}"}
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=target.url, headers=headers, timeout=120, limits=limits)


async def test_a_crowd_costs_one_generation(cached: Target) -> None:
    """All get the same stream, and who comes later gets it again."""
    body = chat(f"{cached.engine}: 국물이 진한 집을 알려 줘", 60)
    before = finished(cached)
    async with client_of(cached) as client:
        answers = await asyncio.gather(*(ask(client, body) for _ in range(CROWD)))
        late = await ask(client, body)
    assert finished(cached) == before + 1
    assert [x_cache for x_cache, _ in answers].count("miss") == 1
    assert late[0] == "hit"
    assert {content for _, content in [*answers, late]} == {answers[0][1]}
    assert answers[0][1].endswith(b"data: [DONE]\n\n")


async def test_when_the_crowd_has_left_the_generation_is_cancelled(cached: Target) -> None:
    """It runs while one is left, and does not come to its own end."""
    body = chat(f"{cached.engine}: 아주 긴 이야기를 해 줘", 900)
    before = finished(cached)
    async with client_of(cached) as client:
        answers = await asyncio.gather(*(client.send(request(client, body), stream=True) for _ in range(10)))
        assert sorted(answer.headers["x-cache"] for answer in answers) == ["coalesced"] * 9 + ["miss"]
        await asyncio.gather(*(answer.aclose() for answer in answers[1:]))
        wait_for(running, cached, 1)
        await answers[0].aclose()
    wait_for(running, cached, 0)
    assert finished(cached) == before


def test_the_service_tells_its_model(engine: Target) -> None:
    """In its card, and in every answer of whatever kind: the same, and whole."""
    http = engine.http()
    [card] = http.get("/v1/models").json()["data"]
    told = {http.get(path).headers[MODEL_HEADER] for path in ("/health/ready", "/nowhere", "/v1/models")}
    told |= {http.post("/generate", json={"prompt": "국물이 ", "max_tokens": 1}).headers[MODEL_HEADER]}
    told |= {
        http.post("/generate", json={}).headers[MODEL_HEADER],
        http.get("/metrics", headers={"authorization": ""}).headers[MODEL_HEADER],
    }
    [one] = told
    found = identity.parse_header(one)
    assert found is not None
    assert (found.model, found.revision, found.fingerprint) == (card["id"], card["revision"], card["fingerprint"])
