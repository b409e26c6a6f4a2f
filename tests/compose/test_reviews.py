"""Reviews through the gateway's published port."""

from collections.abc import Iterator

import httpx
import pytest

from tests.compose.base_images import ROOT
from tests.compose.deployment import Deployment

SAMPLE = (ROOT / "data" / "sample_reviews.jsonl").read_text().splitlines()
RESTAURANT = "rest-08"


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> Iterator[httpx.Client]:
    """A client of the gateway; the reviews that come with the repository are stored."""
    headers = {"authorization": f"Bearer {deployment.key}"}
    with httpx.Client(base_url=deployment.url(), headers=headers, timeout=120) as made:
        assert put(made)["written"] == len(SAMPLE)
        yield made


def put(client: httpx.Client) -> dict[str, int]:
    """Import the sample in one body, as docs/compose.md shows it."""
    lines = client.post("/v1/reviews", content="\n".join(SAMPLE), headers={"content-type": "application/x-ndjson"})
    lines.raise_for_status()
    result: dict[str, int] = lines.json()
    return result


def test_an_import_done_twice_changes_nothing(client: httpx.Client) -> None:
    """Every line is known."""
    again = put(client)
    assert (again["written"], again["unchanged"]) == (0, len(SAMPLE))


@pytest.mark.parametrize("mode", ["vector", "keyword", "hybrid"])
def test_a_search_keeps_to_its_filter(client: httpx.Client, mode: str) -> None:
    """In every mode."""
    ask = {"query": "주차하기 편해요", "mode": mode, "restaurant_id": RESTAURANT}
    found = client.post("/v1/reviews/search", json=ask).raise_for_status().json()["data"]
    assert {hit["review"]["restaurant_id"] for hit in found} == {RESTAURANT}


def test_a_restaurant_has_counts_strengths_and_a_summary(client: httpx.Client) -> None:
    """The last one the LLM writes, or what the reviews say themselves stands in."""
    path = f"/v1/restaurants/{RESTAURANT}"
    counts = client.get(f"{path}/sentiment").raise_for_status().json()
    assert counts["total_count"] == sum(f'"{RESTAURANT}"' in line for line in SAMPLE)
    for told in ("strengths", "summary"):
        assert client.get(f"{path}/{told}").raise_for_status().json()["restaurant_id"] == RESTAURANT
