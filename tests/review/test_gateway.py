"""Reviews and restaurants through the gateway."""

from collections.abc import Iterator

import httpx
import pytest

from tests.gateway.support import error_of, key, secret_of, write_keys
from tests.review.support import gateway_of
from tests.support import KEY, Server, free_port, serving

TEXT = "국물이 진하고 고기도 넉넉해요"


@pytest.fixture(scope="module")
def review(model_urls: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A review service of this module's own, which one test kills."""
    store = str(tmp_path_factory.mktemp("reviews"))
    env = {**model_urls, "REVIEW_STORE": store, "REDIS_PORT": str(free_port())}
    with serving("review_service", port_variable="REVIEW_PORT", env=env) as server:
        yield server


@pytest.fixture(scope="module")
def door(review: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A gateway with a key for everything and one for a model, in front of it; there is nothing else behind it."""
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    write_keys(keys, [key("models-only", models=["some/model"])])
    with gateway_of(review, API_KEY=KEY, API_KEYS_FILE=str(keys)) as server:
        yield server


@pytest.fixture(scope="module")
def client(door: Server) -> Iterator[httpx.Client]:
    """With the key for everything."""
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=door.url, headers=headers, timeout=60) as made:
        yield made


def put(client: httpx.Client, review_id: str, restaurant_id: str) -> None:
    body = {"review_id": review_id, "restaurant_id": restaurant_id, "text": TEXT}
    assert client.post("/v1/reviews", json=body).json()["written"] == 1


def test_every_route_leads_to_the_service(client: httpx.Client) -> None:
    """Also with Korean and with signs in an id; what a query string says arrives."""
    put(client, "a?b=c&d", "달빛국밥#1")
    put(client, "b", "달빛국밥#1")
    put(client, "c", "바삭당")
    found = client.post("/v1/reviews/search", json={"query": TEXT, "restaurant_id": "바삭당"}).json()["data"]
    assert [hit["review"]["review_id"] for hit in found] == ["c"]
    assert len(client.get("/v1/restaurants?limit=1").json()["data"]) == 1
    assert client.get("/v1/restaurants/달빛국밥%231/sentiment").json()["total_count"] == 2
    assert client.get("/v1/restaurants/바삭당/strengths").json()["strengths"] == []
    assert client.delete("/v1/reviews/a%3Fb%3Dc%26d").json() == {
        "object": "review.deleted",
        "review_id": "a?b=c&d",
        "deleted": True,
    }
    lines = client.post("/v1/reviews", content=b"{", headers={"content-type": "application/x-ndjson"})
    assert "JSON" in str(error_of(lines, 400)["message"])


def test_a_kept_answer_shows_its_age(client: httpx.Client) -> None:
    """The gateway hands on where an answer comes from; `no-cache` has it computed anew."""
    put(client, "aged", "달빛국밥")
    path = "/v1/restaurants/달빛국밥/sentiment"
    first, second = client.get(path), client.get(path)
    assert [answer.headers["x-cache"] for answer in (first, second)] == ["miss", "hit"]
    assert int(second.headers["age"]) >= 0
    assert second.json() == first.json()
    assert client.get(path, headers={"cache-control": "no-cache"}).headers["x-cache"] == "miss"


def test_precomputing_is_told_of(client: httpx.Client) -> None:
    """Its status is an answer also where there is no Redis, and no worker; a round cannot be asked for then."""
    assert client.get("/v1/precompute/status").json()["state"] == "none"
    error_of(client.post("/v1/precompute"), 503)


def test_what_leads_nowhere_is_refused(client: httpx.Client) -> None:
    """Wrong methods, unknown restaurants, and a path that a decoded slash makes another."""
    error_of(client.get("/v1/reviews/search"), 405)
    error_of(client.post("/v1/restaurants"), 405)
    error_of(client.get("/v1/restaurants/a%2Fsentiment"), 404)
    error_of(client.get("/v1/restaurants/a/b/sentiment"), 404)
    error_of(client.get("/v1/restaurants/%0a/sentiment"), 400)
    assert error_of(client.get("/v1/restaurants/nobody/sentiment"), 404)["code"] == "restaurant_not_found"
    assert error_of(client.get("/v1/restaurants?limit=0"), 400)["param"] in ("query", "limit")


def test_reviews_want_a_key_that_is_not_for_models_only(client: httpx.Client, door: Server) -> None:
    """Reading, writing and deleting."""
    for method, path in (("POST", "/v1/reviews"), ("DELETE", "/v1/reviews/c"), ("GET", "/v1/restaurants")):
        error_of(httpx.request(method, door.url + path, timeout=30), 401)
        headers = {"authorization": f"Bearer {secret_of('models-only')}"}
        error_of(httpx.request(method, door.url + path, headers=headers, timeout=30), 403)


def test_ids_are_no_labels_of_metrics(client: httpx.Client) -> None:
    """A route is counted under its template."""
    client.get("/v1/restaurants/nobody-else/sentiment")
    metrics = client.get("/metrics").text
    assert "/v1/restaurants/{restaurant_id}/sentiment" in metrics
    assert "nobody-else" not in metrics


def test_a_review_service_that_is_away_is_a_503(client: httpx.Client, review: Server) -> None:
    """With when to come back; readiness tells the part."""
    assert client.get("/health/ready").json()["parts"]["review"]["status"] == "ok"
    review.process.kill()
    review.process.wait()
    answer = client.get("/v1/restaurants")
    error_of(answer, 503)
    assert answer.headers["retry-after"]
    assert client.get("/health/ready").json()["parts"]["review"]["status"] == "down"
