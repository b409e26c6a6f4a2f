"""A review service on the two trained encoders, over a folder of its own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT
from tests.review.worker_process import WorkerProcess, visit
from tests.shared.cache.support import RedisProcess, running_redis
from tests.support import Server, serving


@pytest.fixture(scope="session")
def sample() -> list[dict[str, Any]]:
    """The reviews that come with the repository."""
    return [json.loads(line) for line in (ROOT / "data" / "sample_reviews.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def llm() -> Iterator[Server]:
    """An LLM service that writes what it is told."""
    with serving("tests.review.scripted_llm", port_variable="CANNED_PORT", env={}) as server:
        yield server


@pytest.fixture(scope="session")
def model_urls(sentiment: Server, embedding: Server, llm: Server) -> dict[str, str]:
    """Where the model services are."""
    return {"SENTIMENT_URL": sentiment.url, "EMBEDDING_URL": embedding.url, "LLM_URL": llm.url}


@pytest.fixture(scope="session")
def filled(model_urls: dict[str, str], sample: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that holds the sample reviews, for tests that change nothing."""
    env = {**model_urls, "REVIEW_STORE": str(tmp_path_factory.mktemp("reviews"))}
    with serving("review_service", port_variable="REVIEW_PORT", env=env) as server:
        answer = httpx.post(f"{server.url}/v1/reviews", json=sample, timeout=120)
        assert answer.status_code == 200, answer.text
        assert answer.json()["written"] == len(sample)
        yield server


@pytest.fixture
def empty(model_urls: dict[str, str], tmp_path: Path) -> Iterator[Server]:
    """A service that holds nothing yet, in the folder `reviews`."""
    env = {**model_urls, "REVIEW_STORE": str(tmp_path / "reviews")}
    with serving("review_service", port_variable="REVIEW_PORT", env=env) as server:
        yield server


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    """A Redis of the test's own."""
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture
def env(model_urls: dict[str, str], redis: RedisProcess, tmp_path: Path) -> dict[str, str]:
    """Environment of a service and its worker. Rounds come when they are asked for."""
    rest = {"REVIEW_STORE": str(tmp_path / "reviews"), "CACHE_MEMORY_MB": "0", "PRECOMPUTE_SECONDS": "3600"}
    return {**model_urls, **rest, "REDIS_PORT": str(redis.port)}


@pytest.fixture
def service(env: dict[str, str], sample: list[dict[str, Any]], llm: Server, redis: RedisProcess) -> Iterator[Server]:
    """A service with some reviews of a restaurant that was visited, and an LLM that always has something to say."""
    httpx.post(f"{llm.url}/tell", json=["nothing of use"] * 100)
    with serving("review_service", port_variable="REVIEW_PORT", env=env) as server:
        some = [review for review in sample if review["restaurant_id"] == sample[0]["restaurant_id"]][:20]
        assert httpx.post(f"{server.url}/v1/reviews", json=some, timeout=60).status_code == 200
        visit(server, str(some[0]["restaurant_id"]), redis)
        yield server


@pytest.fixture
def restaurant(sample: list[dict[str, Any]]) -> str:
    """The one whose reviews `service` has."""
    return str(sample[0]["restaurant_id"])


@pytest.fixture
def worker(service: Server, env: dict[str, str], tmp_path: Path) -> Iterator[WorkerProcess]:
    """A running worker."""
    process = WorkerProcess("worker", service, env, tmp_path)
    try:
        process.wait_alive()
        yield process
    finally:
        process.server.stop()
