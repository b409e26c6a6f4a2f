"""A review service on the two trained encoders, over a folder of its own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT
from tests.support import Server, serving


@pytest.fixture(scope="session")
def sample() -> list[dict[str, Any]]:
    """The reviews that come with the repository."""
    return [json.loads(line) for line in (ROOT / "data" / "sample_reviews.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def llm() -> Iterator[Server]:
    """An LLM service that writes what it is told."""
    with serving("tests.review.canned_llm", port_variable="CANNED_PORT", env={}) as server:
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
