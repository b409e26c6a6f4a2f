"""Kept answers: what is kept, for how long, and of which model."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from onecard.cache.identity import HEADER, Identity
from tests.gateway.answering import CHAT, MODEL, Scene, eventually, eventually_async, saying, scene, streaming
from tests.shared.cache.support import Redis
from tests.support import serving

OTHER_MODEL = Identity("canned/model", "r1", "1" * 16)

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
    "chat": (CHAT, saying()),
    "everything": (
        CHAT,
        saying(answer=RICH, n=2, seed=7, logprobs=True, tools=[{"type": "function"}], response_format={"type": "text"}),
    ),
    "completion": (
        "/v1/completions",
        saying(answer={"choices": [{"index": 0, "text": "가", "finish_reason": "length"}], "usage": USAGE}),
    ),
    "generate": ("/generate", saying(answer={"text": "가", "finish_reason": "stop"})),
    "chat stream": (CHAT, streaming(stream_options={"include_usage": True})),
    "completion stream": ("/v1/completions", streaming(count=50)),
}


def test_a_long_stream_is_kept_too(quiet: Scene) -> None:
    """One of over 200 kB is read through beside the event loop, and is there a moment later."""
    body = streaming(count=4000)
    first = quiet.post(body)
    assert len(first.content) > 200_000

    def hit() -> bool:
        again = quiet.post(body)
        assert again.content == first.content or again.headers["x-cache"] == "miss"
        return again.headers["x-cache"] == "hit"

    eventually(hit)


@pytest.mark.parametrize("name", sorted(ASKED))
def test_a_repeated_request_gets_the_same_bytes(quiet: Scene, name: str) -> None:
    """From another gateway's Redis too: status, type and body, ids included."""
    path, body = ASKED[name]
    first = quiet.post(body, path)
    assert (first.status_code, first.headers["x-cache"]) == (200, "miss")
    again = quiet.post(dict(reversed(body.items())), path)
    assert again.headers["x-cache"] == "hit"
    assert again.content == first.content
    assert again.headers["content-type"] == first.headers["content-type"]
    assert "cache;dur=" in again.headers["server-timing"]
    assert HEADER not in {**first.headers, **again.headers}
    renewed = quiet.post(body, path, **{"cache-control": "no-cache"})
    assert renewed.headers["x-cache"] == "miss"
    assert renewed.content != first.content
    assert quiet.post(body, path).content == renewed.content


def test_gateways_share_what_they_keep(redis: Redis) -> None:
    """A second gateway on the same Redis finds the first one's answers, if the model is the same."""
    body = streaming()
    with scene(redis) as one:
        first = one.post(body)
        eventually(lambda: b"onecard:chat:" in redis.command("KEYS", "onecard:chat:*"))
    with scene(redis) as other:
        again = other.post(body)
    assert (again.headers["x-cache"], again.content) == ("hit", first.content)


def test_no_store_leaves_no_trace(quiet: Scene) -> None:
    """It reads nothing, keeps nothing."""
    body = saying()
    for _ in range(2):
        assert quiet.post(body, **{"cache-control": "no-store"}).headers["x-cache"] == "bypass"
    assert quiet.post(body).headers["x-cache"] == "miss"
    assert quiet.post(body, **{"cache-control": "no-store"}).headers["x-cache"] == "bypass"


UNKEPT: dict[str, dict[str, Any]] = {
    "an error": saying(status=400, answer={"error": {"message": "no", "type": "t", "param": None, "code": None}}),
    "busy": saying(status=503),
    "another success": saying(status=201),
    "no end": saying(None),
    "aborted": saying("abort"),
    "no choice": saying(answer={"choices": []}),
    "a stream without [DONE]": streaming(done=False),
    "a stream with an error": streaming(events=[{"error": {"message": "no"}}, "[DONE]"]),
    "an aborted stream": streaming(finish_reason="abort"),
    "an unfinished stream": streaming(finish_reason=None),
    "hot": saying(temperature=0.31),
}


@pytest.mark.parametrize("name", sorted(UNKEPT))
def test_what_is_not_whole_is_not_kept(quiet: Scene, name: str) -> None:
    """The client gets it as it is, and the next one asks the service again."""
    body = UNKEPT[name]
    before = quiet.seen("requests")
    answers = [quiet.post(body) for _ in range(2)]
    assert {answer.headers["x-cache"] for answer in answers} == {"bypass" if name == "hot" else "miss"}
    assert quiet.seen("requests") - before >= 2  # A 503 is asked again at once.


def test_a_service_that_breaks_off_leaves_nothing(own: Scene) -> None:
    """The client gets an error event, here even after [DONE]; the answer is computed anew when the service is back."""
    body = streaming(die=True)
    first = own.post(body)
    assert json.loads(first.text.rstrip().rpartition("data: ")[2])["error"]["code"]
    with serving("tests.canned", port_variable="CANNED_PORT", env={}, port=own.canned.port):
        own.tell(MODEL)
        assert own.post(body).headers["x-cache"] == "miss"


def test_a_damaged_value_is_a_miss_and_is_written_over(redis: Redis) -> None:
    """Bytes that changed in Redis or on the way from it are not served."""
    with scene(redis, CACHE_MEMORY_MB="0") as own:
        redis.command("FLUSHALL")
        body = saying()
        own.post(body)
        eventually(lambda: own.post(body).headers["x-cache"] == "hit")
        key = redis.command("KEYS", "onecard:chat:*").split(b"\r\n")[2]
        redis.command("SETRANGE", key, "40", "XXXX")
        assert own.post(body).headers["x-cache"] == "miss"
        eventually(lambda: own.post(body).headers["x-cache"] == "hit")


def test_another_model_gets_no_old_answers(own: Scene) -> None:
    """Once readiness has seen the change; the old model's answers are its own again when it comes back."""
    body = streaming()
    first = own.post(body)
    own.tell(OTHER_MODEL)
    second = own.post(body)
    assert second.headers["x-cache"] == "miss"
    assert second.content != first.content
    own.tell(None)
    assert own.post(body).headers["x-cache"] == "bypass"
    own.tell(MODEL)
    assert own.post(body).content == first.content


def test_an_answer_of_another_model_than_expected_is_not_kept(own: Scene) -> None:
    """The service was exchanged after the gateway looked: its answer has no place under the old key."""
    body = saying(wait=True)

    async def exchange() -> None:
        async with httpx.AsyncClient(base_url=own.gateway.url, timeout=30) as client:
            asking = asyncio.create_task(client.post(CHAT, json=body))
            await eventually_async(lambda: own.seen("requests") == 1)
            own.tell(OTHER_MODEL)
            own.open()
            await asking

    asyncio.run(exchange())
    own.tell(MODEL)
    assert own.post(body).headers["x-cache"] == "miss"


def test_kept_answers_are_given_while_the_service_is_away(own: Scene) -> None:
    """And what is not kept is a 503."""
    body = saying()
    first = own.post(body)
    own.canned.process.kill()
    own.canned.process.wait()
    assert own.post(saying()).status_code == 503
    assert own.client.get("/health/ready").status_code == 503
    again = own.post(body)
    assert (again.headers["x-cache"], again.content) == ("hit", first.content)


def test_without_redis_the_gateway_works_and_says_so(tmp_path: Path) -> None:
    """Degraded, with its own memory."""
    with scene(Redis(tmp_path)) as alone:
        body = saying()
        assert [alone.post(body).headers["x-cache"] for _ in range(2)] == ["miss", "hit"]
        ready = alone.client.get("/health/ready")
        assert (ready.status_code, ready.json()["parts"]["cache"]["status"]) == (200, "degraded")


def test_a_cache_that_is_switched_off_shares_nothing(redis: Redis) -> None:
    """Not even what is under way."""
    with scene(redis, CACHE_ENABLED="false") as plain:
        body = saying()
        assert [plain.post(body).headers["x-cache"] for _ in range(2)] == ["bypass", "bypass"]
        assert plain.seen("requests") == 2
