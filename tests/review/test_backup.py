"""Backup and restore of the reviews, as docs/operations.md says it."""

import subprocess
from pathlib import Path
from typing import Any

import httpx

from tests.support import serving


def tar(*arguments: str) -> None:
    """The program that the page names."""
    subprocess.run(["tar", *arguments], check=True)


def test_a_restored_store_answers_as_before(
    model_urls: dict[str, str], sample: list[dict[str, Any]], tmp_path: Path
) -> None:
    """What was written after the copy is gone, what was there is found by search and counts, and it can be written."""
    store, copy = tmp_path / "reviews", tmp_path / "reviews.tar"
    env = {**model_urls, "REVIEW_STORE": str(store), "CACHE_MEMORY_MB": "0"}
    search = {"query": "국물", "top_k": 5}
    with serving("review_service", port_variable="REVIEW_PORT", env=env) as server:
        httpx.post(f"{server.url}/v1/reviews", json=sample[:20], timeout=120).raise_for_status()
        counts = httpx.get(f"{server.url}/v1/restaurants").json()["data"]
        hits = httpx.post(f"{server.url}/v1/reviews/search", json=search, timeout=60).json()["data"]
    tar("-c", "-C", str(store), "-f", str(copy), ".")
    with serving("review_service", port_variable="REVIEW_PORT", env=env) as server:
        httpx.post(f"{server.url}/v1/reviews", json=sample[20:40], timeout=120).raise_for_status()
    subprocess.run(["find", str(store), "-mindepth", "1", "-delete"], check=True)
    tar("-x", "-C", str(store), "-f", str(copy))
    with serving("review_service", port_variable="REVIEW_PORT", env=env) as server:
        assert httpx.get(f"{server.url}/v1/restaurants").json()["data"] == counts
        assert httpx.post(f"{server.url}/v1/reviews/search", json=search, timeout=60).json()["data"] == hits
        httpx.post(f"{server.url}/v1/reviews", json=sample[40:42], timeout=60).raise_for_status()
