"""The gateway in front of a Redis that falls sick: no request fails, readiness says so, and it heals."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.gateway_scene import GatewayScene, chat_request, eventually, scene, stream_request
from tests.shared.cache.support import FAULTS, running_redis


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayScene]:
    """A scene with a Redis of its own, and no memory in front of it."""
    with running_redis(tmp_path_factory.mktemp("redis")) as redis, scene(redis, CACHE_MEMORY_MB="0") as built:
        yield built


def cache_status(own: GatewayScene) -> str:
    answer = own.client.get("/health/ready")
    assert answer.status_code == 200
    status: str = answer.json()["parts"]["cache"]["status"]
    return status


def wait_until_kept(own: GatewayScene, body: dict[str, Any]) -> None:
    eventually(lambda: own.post(body).headers["x-cache"] == "hit")


@pytest.mark.parametrize("ailment", sorted(FAULTS))
def test_a_sick_redis_fails_no_request(exposed: GatewayScene, ailment: str) -> None:
    """Known and new requests, whole answers and streams; once Redis is well, what is new is kept again."""
    known, known_stream = chat_request(), stream_request()
    for body in (known, known_stream):
        wait_until_kept(exposed, body)
    with FAULTS[ailment](exposed.redis):
        answers = [exposed.post(body) for body in (known, chat_request(), known_stream, stream_request())]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert all(answer.content.endswith(b"data: [DONE]\n\n") for answer in answers[2:])
        eventually(lambda: cache_status(exposed) == "degraded")
        assert exposed.post(chat_request()).status_code == 200
    eventually(lambda: cache_status(exposed) == "ok")
    wait_until_kept(exposed, chat_request())
