"""Whole answers of the encoders, kept in the gateway's memory."""

from typing import Any

import pytest

from onecard.models.identity import MODEL_HEADER, ModelIdentity
from tests.gateway.gateway_scene import MODEL, GatewayScene, chat_request, scene
from tests.shared.cache.support import RedisProcess

EMBEDDINGS = "/v1/embeddings"
OTHER_MODEL = ModelIdentity("canned/model", "r1", "1" * 16)


def embedding(**more: Any) -> dict[str, Any]:
    return chat_request(
        answer={"data": [{"embedding": [0.6, 0.8]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}, **more
    )


def test_a_body_that_comes_again_gets_the_same_bytes(quiet: GatewayScene) -> None:
    """Without a request to the encoder; `no-cache` asks it again and keeps that."""
    body = embedding()
    first = quiet.post(body, EMBEDDINGS)
    asked = quiet.seen("requests")
    again = quiet.post(body, EMBEDDINGS)
    assert (again.status_code, again.headers["x-cache"], again.content) == (200, "hit", first.content)
    assert again.headers["content-type"] == first.headers["content-type"]
    assert "cache;dur=" in again.headers["server-timing"]
    assert MODEL_HEADER not in {**first.headers, **again.headers}
    assert quiet.seen("requests") == asked
    renewed = quiet.post(body, EMBEDDINGS, **{"cache-control": "no-cache"})
    assert renewed.content != first.content
    assert quiet.post(body, EMBEDDINGS).content == renewed.content


def test_a_body_in_other_words_is_another(quiet: GatewayScene) -> None:
    """The encoder knows which texts are the same; the gateway does not read them."""
    body = embedding()
    first = quiet.post(body, EMBEDDINGS)
    assert quiet.post(dict(reversed(body.items())), EMBEDDINGS).content != first.content
    assert quiet.post({**body, "truncate": False}, EMBEDDINGS).content != first.content


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (embedding(), {"cache-control": "no-store"}),
        (embedding(status=201), {}),
        (embedding(status=400), {}),
        (embedding(cache_salt="a", headers={"x-cache": "bypass"}), {}),
        (chat_request(answer={"data": "0" * 64_000}), {}),
        (embedding(padding="0" * 256_000), {}),
    ],
    ids=["no-store", "another success", "an error", "private", "a huge answer", "a huge body"],
)
def test_what_is_not_kept_is_asked_for_again(
    quiet: GatewayScene, body: dict[str, Any], headers: dict[str, str]
) -> None:
    before = quiet.seen("requests")
    for _ in range(2):
        assert quiet.post(body, EMBEDDINGS, **headers).headers.get("x-cache") != "hit"
    assert quiet.seen("requests") - before == 2


def test_another_model_gets_no_old_answers(own: GatewayScene) -> None:
    """Once readiness has seen the change; a service that tells no model is only relayed."""
    body = embedding()
    first = own.post(body, EMBEDDINGS)
    own.set_model(OTHER_MODEL)
    assert own.post(body, EMBEDDINGS).content != first.content
    own.set_model(None)
    silent = own.post(body, EMBEDDINGS)
    assert own.post(body, EMBEDDINGS).content != silent.content
    own.set_model(MODEL)
    assert own.post(body, EMBEDDINGS).content == first.content


def test_kept_answers_outlive_the_encoder(own: GatewayScene) -> None:
    """While it is away, who asks for what was asked before still gets it."""
    body = embedding()
    first = own.post(body, EMBEDDINGS)

    own.post({"case": "die"}, EMBEDDINGS)
    assert own.post(embedding(), EMBEDDINGS).status_code == 503
    assert own.post(body, EMBEDDINGS).content == first.content


@pytest.mark.parametrize("setting", [{"CACHE_ENABLED": "false"}, {"CACHE_MEMORY_MB": "0"}], ids=["off", "no memory"])
def test_without_memory_everything_is_asked_for(redis: RedisProcess, setting: dict[str, str]) -> None:
    with scene(redis, **setting) as own:
        body = embedding()
        assert own.post(body, EMBEDDINGS).content != own.post(body, EMBEDDINGS).content


def test_they_are_not_written_to_redis(own: GatewayScene) -> None:
    """There are the texts' own results already."""
    own.post(embedding(), EMBEDDINGS)
    assert b"onecard:embedding:" not in own.redis.command("KEYS", "onecard:embedding:*")
