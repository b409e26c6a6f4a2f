"""Kept answers: what is kept, for how long, and of which model."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from onecard.models.identity import MODEL_HEADER, ModelIdentity
from tests.gateway.gateway_scene import (
    CHAT,
    MODEL,
    GatewayScene,
    chat_request,
    eventually,
    eventually_async,
    scene,
    stream_request,
)
from tests.shared.cache.support import RedisProcess
from tests.support import serving

OTHER_MODEL = ModelIdentity("canned/model", "r1", "1" * 16)
WRITTEN = 'onecard_cache_bytes_total{direction="written",kind="chat",tier="memory"}'

LOGPROBS = {"content": [{"token": "안", "logprob": -0.1, "bytes": [236, 149, 136], "top_logprobs": []}]}
TOOL_CALLS = [{"id": "call-1", "type": "function", "function": {"name": "f", "arguments": '{"a": "가"}'}}]
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 2}}
RICH = {
    "choices": [
        {"index": 0, "message": {"content": None, "tool_calls": TOOL_CALLS}, "finish_reason": "tool_calls"},
        {"index": 1, "message": {"content": "{}", "reasoning": "음…"}, "logprobs": LOGPROBS, "finish_reason": "length"},
    ],
    "usage": USAGE,
}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, chat_request()),
    "everything": (
        CHAT,
        chat_request(
            answer=RICH, n=2, seed=7, logprobs=True, tools=[{"type": "function"}], response_format={"type": "text"}
        ),
    ),
    "completion": (
        "/v1/completions",
        chat_request(answer={"choices": [{"index": 0, "text": "가", "finish_reason": "length"}], "usage": USAGE}),
    ),
    "generate": ("/generate", chat_request(answer={"text": "가", "finish_reason": "stop"})),
    "chat stream": (CHAT, stream_request(stream_options={"include_usage": True})),
    "completion stream": ("/v1/completions", stream_request(count=50)),
}


def test_a_long_stream_is_kept_too(quiet: GatewayScene) -> None:
    """One of over 200 kB is read through beside the event loop, and is there a moment later."""
    body = stream_request(count=4000)
    before = quiet.metric(WRITTEN)
    first = quiet.post(body)
    assert len(first.content) > 200_000
    # Who asks earlier has it made once more, and what is made last is kept in place of the first.
    eventually(lambda: quiet.metric(WRITTEN) >= before + len(first.content))
    again = quiet.post(body)
    assert (again.headers["x-cache"], again.content) == ("hit", first.content)


@pytest.mark.parametrize("name", sorted(ASKED))
def test_a_repeated_request_gets_the_same_bytes(quiet: GatewayScene, name: str) -> None:
    """From another gateway's Redis too: status, type and body, ids included."""
    path, body = ASKED[name]
    first = quiet.post(body, path)
    assert (first.status_code, first.headers["x-cache"]) == (200, "miss")
    again = quiet.post(dict(reversed(body.items())), path)
    assert again.headers["x-cache"] == "hit"
    assert again.content == first.content
    assert again.headers["content-type"] == first.headers["content-type"]
    assert "cache;dur=" in again.headers["server-timing"]
    assert MODEL_HEADER not in {**first.headers, **again.headers}
    renewed = quiet.post(body, path, **{"cache-control": "no-cache"})
    assert renewed.headers["x-cache"] == "miss"
    assert renewed.content != first.content
    assert quiet.post(body, path).content == renewed.content


def test_gateways_share_what_they_keep(redis: RedisProcess) -> None:
    """A second gateway on the same Redis finds the first one's answers, if the model is the same."""
    body = stream_request()
    with scene(redis) as one:
        first = one.post(body)
        eventually(lambda: b"onecard:chat:" in redis.command("KEYS", "onecard:chat:*"))
    with scene(redis) as other:
        again = other.post(body)
    assert (again.headers["x-cache"], again.content) == ("hit", first.content)


def test_no_store_leaves_no_trace(quiet: GatewayScene) -> None:
    """It reads nothing, keeps nothing."""
    body = chat_request()
    for _ in range(2):
        assert quiet.post(body, **{"cache-control": "no-store"}).headers["x-cache"] == "bypass"
    assert quiet.post(body).headers["x-cache"] == "miss"
    assert quiet.post(body, **{"cache-control": "no-store"}).headers["x-cache"] == "bypass"


UNKEPT: dict[str, dict[str, Any]] = {
    "an error": chat_request(status=400, answer={"error": {"message": "no", "type": "t", "param": None, "code": None}}),
    "busy": chat_request(status=503),
    "another success": chat_request(status=201),
    "no end": chat_request(None),
    "aborted": chat_request("abort"),
    "no choice": chat_request(answer={"choices": []}),
    "too long to look through": chat_request(padded=20_000_000),
    "a stream without [DONE]": stream_request(done=False),
    "a stream with an error": stream_request(events=[{"error": {"message": "no"}}, "[DONE]"]),
    "an aborted stream": stream_request(finish_reason="abort"),
    "an unfinished stream": stream_request(finish_reason=None),
    "hot": chat_request(temperature=0.31),
}


@pytest.mark.parametrize("name", sorted(UNKEPT))
def test_what_is_not_whole_is_not_kept(quiet: GatewayScene, name: str) -> None:
    """The client gets it as it is, and the next one asks the service again."""
    body = UNKEPT[name]
    before = quiet.seen("requests")
    answers = [quiet.post(body) for _ in range(2)]
    assert {answer.headers["x-cache"] for answer in answers} == {"bypass" if name == "hot" else "miss"}
    assert quiet.seen("requests") - before >= 2  # A 503 is asked again at once.


def test_a_service_that_breaks_off_leaves_nothing(own: GatewayScene) -> None:
    """The client gets an error event, here even after [DONE]; the answer is computed anew when the service is back."""
    body = stream_request(die=True)
    first = own.post(body)
    assert json.loads(first.text.rstrip().rpartition("data: ")[2])["error"]["code"]
    with serving("tests.scripted_upstream", port_variable="CANNED_PORT", env={}, port=own.canned.port):
        own.set_model(MODEL)
        assert own.post(body).headers["x-cache"] == "miss"


def test_a_damaged_value_is_a_miss_and_is_written_over(redis: RedisProcess) -> None:
    """Bytes that changed in Redis or on the way from it are not served."""
    with scene(redis, CACHE_MEMORY_MB="0") as own:
        redis.command("FLUSHALL")
        body = chat_request()
        own.post(body)
        eventually(lambda: own.post(body).headers["x-cache"] == "hit")
        key = redis.command("KEYS", "onecard:chat:*").split(b"\r\n")[2]
        redis.command("SETRANGE", key, "40", "XXXX")
        assert own.post(body).headers["x-cache"] == "miss"
        eventually(lambda: own.post(body).headers["x-cache"] == "hit")


def test_another_model_gets_no_old_answers(own: GatewayScene) -> None:
    """Once readiness has seen the change; the old model's answers are its own again when it comes back."""
    body = stream_request()
    first = own.post(body)
    own.set_model(OTHER_MODEL)
    second = own.post(body)
    assert second.headers["x-cache"] == "miss"
    assert second.content != first.content
    own.set_model(None)
    assert own.post(body).headers["x-cache"] == "bypass"
    own.set_model(MODEL)
    assert own.post(body).content == first.content


def test_an_answer_of_another_model_than_expected_is_not_kept(own: GatewayScene) -> None:
    """The service was exchanged after the gateway looked: its answer has no place under the old key."""
    body = chat_request(wait=True)

    async def exchange() -> None:
        async with httpx.AsyncClient(base_url=own.gateway.url, timeout=30) as client:
            asking = asyncio.create_task(client.post(CHAT, json=body))
            await eventually_async(lambda: own.seen("requests") == 1)
            own.set_model(OTHER_MODEL)
            own.open()
            await asking

    asyncio.run(exchange())
    own.set_model(MODEL)
    assert own.post(body).headers["x-cache"] == "miss"


def test_kept_answers_are_given_while_the_service_is_away(own: GatewayScene) -> None:
    """And what is not kept is a 503."""
    body = chat_request()
    first = own.post(body)
    own.canned.process.kill()
    own.canned.process.wait()
    assert own.post(chat_request()).status_code == 503
    assert own.client.get("/health/ready").status_code == 503
    again = own.post(body)
    assert (again.headers["x-cache"], again.content) == ("hit", first.content)


def test_without_redis_the_gateway_works_and_says_so(tmp_path: Path) -> None:
    """Degraded, with its own memory."""
    with scene(RedisProcess(tmp_path)) as alone:
        body = chat_request()
        assert [alone.post(body).headers["x-cache"] for _ in range(2)] == ["miss", "hit"]
        ready = alone.client.get("/health/ready")
        assert (ready.status_code, ready.json()["parts"]["cache"]["status"]) == (200, "degraded")


def test_a_cache_that_is_switched_off_shares_nothing(redis: RedisProcess) -> None:
    """Not even what is under way."""
    with scene(redis, CACHE_ENABLED="false") as plain:
        body = chat_request()
        assert [plain.post(body).headers["x-cache"] for _ in range(2)] == ["bypass", "bypass"]
        assert plain.seen("requests") == 2
