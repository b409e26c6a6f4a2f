"""Answers that lie ready: which ones, how long they hold, and the worker and the schedule that see to it."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from onecard.redis.settings import RedisSettings
from review_service.precompute.load_probe import SNAPSHOT_MAX_AGE_SECONDS, USERS_GONE_SECONDS, LoadProbe
from review_service.precompute.refresh_jobs import (
    MAX_REST_SECONDS,
    ROUND_TIMEOUT_SECONDS,
    JobOutcome,
    RefreshJob,
    RefreshRound,
    canonical_json,
    parse_load,
    refresh_jobs,
    rest_seconds,
)
from review_service.precompute.task_queue import KEY_PREFIX, QUEUE_NAME, REFRESH_TASK, open_queue
from review_service.settings import WorkerSettings
from tests.review.worker_process import WorkerProcess, run_round, sentiment, status, until
from tests.shared.cache.support import RedisProcess
from tests.support import Server, metric


def test_every_popular_restaurant_and_query_is_an_errand() -> None:
    """Three answers a restaurant, one a search; ids are quoted, since users choose them."""
    made = refresh_jobs(["r/1", "r2"], ['{"query":"국밥"}'])
    assert [errand.path for errand in made][:3] == [
        f"/v1/restaurants/r%2F1/{w}" for w in ("sentiment", "summary", "strengths")
    ]
    assert made[-1] == RefreshJob("/v1/reviews/search", '{"query":"국밥"}')
    assert len({errand.name for errand in made}) == 7
    assert all(RefreshJob(**errand.as_json()) == errand for errand in made)  # type: ignore[arg-type]


@given(st.dictionaries(st.text(min_size=1), st.none() | st.integers() | st.text(), max_size=5))
def test_a_search_has_one_name(search: dict[str, Any]) -> None:
    """The order of its fields, and those that are not set, do not count."""
    turned = dict(reversed([*search.items(), ("not set", None)]))
    assert canonical_json(turned) == canonical_json(search)
    assert json.loads(canonical_json(search)) == {name: value for name, value in search.items() if value is not None}


@pytest.mark.parametrize(
    ("text", "waits"),
    [
        ("", False),
        ('vllm:num_requests_waiting{engine="0"} 0.0\n', False),
        ('vllm:num_requests_waiting{engine="0"} 2.0\n', True),
        ('onecard_queue_tokens{lane="interactive"} 12.0\nonecard_queue_tokens{lane="bulk"} 0.0\n', True),
        ('onecard_queue_tokens{lane="interactive"} 0.0\nonecard_queue_tokens{lane="bulk"} 900.0\n', False),
    ],
)
def test_users_wait_when_a_service_says_so(text: str, waits: bool) -> None:
    """What waits in the bulk lane is nobody's."""
    assert parse_load(["", text]).queued is waits


def test_users_are_seen_by_what_they_were_answered() -> None:
    """By both encoders and by the review service, in the interactive lane alone; and by what the LLM writes."""
    counts = 'onecard_queue_seconds_count{lane="interactive"} 7\nonecard_queue_seconds_count{lane="bulk"} 90\n'
    asked = 'onecard_review_requests_total{lane="interactive"} 2\nonecard_review_requests_total{lane="bulk"} 5\n'
    seen = parse_load([counts, counts, asked, 'vllm:num_requests_running{engine="0"} 0\n'])
    assert (seen.requests_served, seen.generating) == (16, False)
    assert parse_load(['vllm:num_requests_running{engine="0"} 1\n']).generating


@given(st.text() | st.text(alphabet='a{}="\\,#\n 1'))
def test_metrics_that_cannot_be_read_say_nothing(text: str) -> None:
    """Whatever a service answers, the next errand is looked at."""
    assert parse_load([text, 'onecard_queue_seconds_count{lane="interactive"} 7\n']).requests_served == 7


def test_the_worker_rests_while_users_are_there() -> None:
    """Longer after longer work, within a bound; not at all where nobody is."""
    assert rest_seconds("none", 5.0) == 0
    assert 0 < rest_seconds("served", 0.01) < rest_seconds("served", 0.02) < MAX_REST_SECONDS
    assert rest_seconds("served", 60.0) == rest_seconds("wait", 0.0) == MAX_REST_SECONDS


async def test_users_are_there_until_they_have_asked_for_nothing_for_a_while() -> None:
    """At the start, too; metrics are not asked for at every turn."""
    now, counted, looks = [1000.0], [7], list[str]()

    def answer(request: httpx.Request) -> httpx.Response:
        looks.append(request.url.path)
        return httpx.Response(200, text=f'onecard_queue_seconds_count{{lane="interactive"}} {counted[0]}\n')

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        lookout = LoadProbe(WorkerSettings(), http, lambda: now[0])
        assert await lookout.user_load() == "served"
        now[0] += USERS_GONE_SECONDS
        assert await lookout.user_load() == "none"
        counted[0], now[0] = 8, now[0] + SNAPSHOT_MAX_AGE_SECONDS + 0.1
        assert await lookout.user_load() == "served"
        seen = len(looks)
        now[0] += SNAPSHOT_MAX_AGE_SECONDS / 2
        assert (await lookout.user_load(), len(looks)) == ("served", seen)
        now[0] += USERS_GONE_SECONDS
        assert (await lookout.user_load(), len(looks) > seen) == ("none", True)


def test_a_round_that_lost_errands_does_not_hold_up_the_next() -> None:
    """It is under way until all is looked at, or its time is over."""
    outcomes: dict[str, JobOutcome] = {"a": "computed", "b": "waiting"}
    latest = RefreshRound(1000, outcomes)
    assert latest.in_progress(1000 + ROUND_TIMEOUT_SECONDS - 1)
    assert latest.state(1000 + ROUND_TIMEOUT_SECONDS - 1) == "running"
    assert not latest.in_progress(1000 + ROUND_TIMEOUT_SECONDS)
    assert latest.state(1000 + ROUND_TIMEOUT_SECONDS) == "paused"
    assert RefreshRound(1000, {"a": "computed", "b": "paused"}).state(1000) == "paused"
    assert RefreshRound(1000, {"a": "computed", "b": "failed"}).state(1000) == "idle"
    assert not RefreshRound(1000, {"a": "computed", "b": "failed"}).in_progress(1000)


def test_what_is_asked_about_reviews_is_counted_by_lane(filled: Server) -> None:
    """Health, metrics and looks at the worker are nobody's wish."""

    def count(lane: str) -> float:
        return metric(filled, f'onecard_review_requests_total{{lane="{lane}"}}')

    before = count("interactive"), count("bulk")
    for path in ("/health/ready", "/v1/precompute/status", "/v1/restaurants"):
        httpx.get(filled.url + path)
    httpx.get(f"{filled.url}/v1/restaurants", headers={"x-onecard-lane": "bulk"})
    assert (count("interactive"), count("bulk")) == (before[0] + 1, before[1] + 1)


def test_a_worker_whose_port_is_taken_says_so(service: Server, env: dict[str, str]) -> None:
    """In one line."""
    taken = {**env, "REVIEW_URL": service.url, "PRECOMPUTE_METRICS_PORT": str(service.port), "PATH": ""}
    argv = [sys.executable, "-m", "review_service.worker"]
    ended = subprocess.run(
        argv, env={**taken, "PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "PRECOMPUTE_METRICS_PORT" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_an_errand_that_has_expired_is_passed_over(
    service: Server, worker: WorkerProcess, restaurant: str, env: dict[str, str], redis: RedisProcess
) -> None:
    """It leaves the queue, and the worker goes on with what comes after it."""
    queue = open_queue(RedisSettings(redis_port=int(env["REDIS_PORT"])))
    old = RefreshJob(f"/v1/restaurants/{restaurant}/summary")
    queue.send_task(REFRESH_TASK, [old.as_json()], expires=datetime.now(UTC) - timedelta(seconds=1))
    until(lambda: redis.command("LLEN", KEY_PREFIX + QUEUE_NAME) == b":0\r\n", worker.server)
    assert run_round(service, worker)["current"] == 0
    until(lambda: redis.command("EXISTS", f"{KEY_PREFIX}unacked") == b":0\r\n", worker.server)


def test_an_answer_is_ready_before_it_is_asked_for(
    service: Server, worker: WorkerProcess, restaurant: str, sample: list[dict[str, Any]]
) -> None:
    """The first user finds it in the cache, with its age; a review that is added makes another one."""
    assert run_round(service, worker)["computed"] >= 1
    assert metric(worker.server, "onecard_precompute_rounds_total") == 1
    assert metric(worker.server, 'onecard_precompute_jobs_total{outcome="computed"}') >= 1
    ready = sentiment(service, restaurant)
    assert (ready.status_code, ready.headers["x-cache"]) == (200, "hit")
    assert int(ready.headers["age"]) >= 0
    added = next(review for review in sample[::-1] if review["restaurant_id"] == restaurant)
    assert httpx.post(f"{service.url}/v1/reviews", json=added, timeout=60).json()["written"] == 1
    run_round(service, worker)
    renewed = sentiment(service, restaurant)
    assert renewed.headers["x-cache"] == "hit"
    assert renewed.json()["total_count"] == ready.json()["total_count"] + 1


def internal_requests(service: Server) -> float:
    """Requests that were answered and are no client's, monitoring left out."""
    samples = [
        sample
        for family in text_string_to_metric_families(httpx.get(f"{service.url}/metrics").text)
        for sample in family.samples
    ]
    clients = sum(sample.value for sample in samples if sample.name == "onecard_client_requests_total")
    routes = [sample for sample in samples if sample.name == "onecard_http_requests_total"]
    return sum(one.value for one in routes if not one.labels["route"].startswith(("/health", "/metrics"))) - clients


def test_nothing_is_renewed_that_nobody_visited(
    service: Server, worker: WorkerProcess, restaurant: str, sample: list[dict[str, Any]], llm: Server
) -> None:
    """Other restaurants have more reviews; and what is renewed is no client's traffic, here or at the LLM service."""
    other = [review for review in sample if review["restaurant_id"] != restaurant][:60]
    assert httpx.post(f"{service.url}/v1/reviews", json=other, timeout=120).status_code == 200
    before = internal_requests(service)
    assert run_round(service, worker)["computed"] == 3
    assert internal_requests(service) == before + 4  # the list, and three answers
    assert set(httpx.get(f"{llm.url}/internal").json()) == {"review"}


def test_rounds_that_find_all_ready_are_hardly_logged(service: Server, worker: WorkerProcess, restaurant: str) -> None:
    """A line each, however many answers there are: neither the worker nor the service tells of each of them."""
    while run_round(service, worker)["computed"]:
        pass
    before = len(worker.server.log()), len(service.log())
    assert run_round(service, worker)["current"] >= 3
    told, answered = worker.server.log()[before[0] :], service.log()[before[1] :]
    assert [json.loads(line)["event"] for line in told.splitlines()] == ["round planned"]
    assert "/v1/restaurants/{restaurant_id}/" not in answered


def test_the_worker_waits_for_live_traffic(
    service: Server, worker: WorkerProcess, restaurant: str, llm: Server
) -> None:
    """While requests wait for the LLM nothing is computed; the next round takes it up, at low priority."""
    httpx.post(f"{llm.url}/wait", json=3)
    try:
        paused = run_round(service, worker)
    finally:
        httpx.post(f"{llm.url}/wait", json=0)
    assert (paused["state"], paused["computed"]) == ("paused", 0)
    assert paused["paused"] >= 3
    assert httpx.get(f"{llm.url}/seen").json() == []
    assert run_round(service, worker)["state"] == "idle"
    assert {asked["priority"] for asked in httpx.get(f"{llm.url}/seen").json()} == {1}
    assert httpx.get(f"{service.url}/v1/restaurants/{restaurant}/summary").headers["x-cache"] == "hit"


def test_a_stale_answer_is_never_given(service: Server, restaurant: str, sample: list[dict[str, Any]]) -> None:
    """Without any worker: what was deleted is gone from the very next answer, of counts and of searches."""
    search = {"query": "순대국", "top_k": 3}
    ask = lambda: httpx.post(f"{service.url}/v1/reviews/search", json=search, timeout=60)  # noqa: E731
    counted, found = sentiment(service, restaurant), ask()
    assert sentiment(service, restaurant).headers["x-cache"] == "hit"
    until(lambda: ask().headers["x-cache"] == "hit", service)  # Index maintenance makes a new version of all reviews.
    gone = found.json()["data"][0]["review"]["review_id"]
    assert httpx.delete(f"{service.url}/v1/reviews/{gone}").json()["deleted"]
    assert sentiment(service, restaurant).json()["total_count"] == counted.json()["total_count"] - 1
    assert gone not in [one["review"]["review_id"] for one in ask().json()["data"]]


def test_frequent_queries_are_learned_and_kept_ready(
    service: Server, worker: WorkerProcess, redis: RedisProcess
) -> None:
    """A search that users make is an errand of the next round; that the worker makes it teaches nothing."""
    search = {"query": "국물이 진한 집", "top_k": 2}
    httpx.post(f"{service.url}/v1/reviews/search", json=search, timeout=60)
    until(lambda: redis.command("EXISTS", "onecard:popular:queries:86400") == b":1\r\n", service)
    first = run_round(service, worker)
    again = run_round(service, worker)
    total = lambda found: sum(found[name] for name in ("current", "computed", "paused", "failed"))  # noqa: E731
    assert total(first) == total(again)
    assert again["current"] >= 2


def test_the_schedule_asks_by_itself(
    service: Server, worker: WorkerProcess, env: dict[str, str], tmp_path: Path
) -> None:
    """And tells that it lives; SIGTERM ends it."""
    schedule = WorkerProcess("schedule", service, {**env, "PRECOMPUTE_SECONDS": "1"}, tmp_path)
    try:
        schedule.wait_alive()
        until(lambda: status(service)["state"] == "idle", schedule.server)
    finally:
        assert schedule.server.stop() == 0
