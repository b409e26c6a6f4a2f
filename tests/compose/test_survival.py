"""Restarts: of each container, of one that is killed, and of the whole stack."""

import time

import pytest

from tests.compose.deployment import SERVING, Deployment
from tests.support import LLM

ASK = [{"role": "user", "content": "이 식당 리뷰를 요약해 주세요."}]
BODIES: dict[str, dict[str, object]] = {
    "/v1/chat/completions": {"model": LLM, "messages": ASK, "max_tokens": 4},
    "/v1/sentiment": {"input": "국물이 진해요"},
    "/v1/embeddings": {"input": "국물이 진해요"},
    "/v1/reviews/search": {"query": "국물이 진해요"},
}
REVIEW: dict[str, object] = {"review_id": "kept", "restaurant_id": "달빛국밥", "text": "국물이 진하고 고기도 넉넉해요"}
RECOVERY_SECONDS = 30
_LIST = "import os; print(*sorted((f, os.stat(f'/models/{f}').st_mtime_ns) for f in os.listdir('/models')))"


def assert_works(deployment: Deployment) -> None:
    """Every route answers; the gateway may take some seconds to see that a service is back."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    for path, body in BODIES.items():
        while (answer := deployment.post(path, body)).status_code != 200:
            assert time.monotonic() < deadline, (path, answer.text)
            time.sleep(1)


@pytest.mark.parametrize("service", SERVING)
def test_a_restarted_container_comes_back(deployment: Deployment, service: str) -> None:
    """Healthy again, and every route works."""
    deployment.compose("restart", service)
    deployment.wait_healthy(service)
    assert_works(deployment)


@pytest.mark.parametrize("service", ["gateway", "review", "worker", "schedule"])
def test_what_is_killed_is_started_again(deployment: Deployment, service: str) -> None:
    """By Docker, without anybody's doing."""
    before = deployment.inspect(service)
    deployment.execute(service, "python3", "-c", "import os; os.kill(-1, 9)", check=False)
    deadline = time.monotonic() + RECOVERY_SECONDS
    while deployment.inspect(service)["RestartCount"] == before["RestartCount"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    deployment.wait_healthy(service)
    assert_works(deployment)


def test_down_and_up_keeps_models_and_reviews(deployment: Deployment) -> None:
    """The second start fetches and trains nothing, and finds what was stored."""
    deployment.post("/v1/reviews", REVIEW).raise_for_status()
    before = deployment.execute("sentiment", "python3", "-c", _LIST)
    deployment.down()
    deployment.up()
    assert deployment.execute("sentiment", "python3", "-c", _LIST) == before
    assert_works(deployment)
    found = deployment.post("/v1/reviews/search", {"query": REVIEW["text"], "restaurant_id": "달빛국밥"}).json()["data"]
    assert [hit["review"]["review_id"] for hit in found] == ["kept"]
