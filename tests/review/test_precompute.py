"""Answers that lie ready: which ones, how long they hold, and a worker and a schedule that are stopped and killed."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from review_service.heartbeat import alive
from review_service.precompute import ROUND_SECONDS, Errand, Outcome, Round, canonical, errands, live_traffic_waits
from tests.shared.cache.support import Redis, running_redis
from tests.support import Server, serving, start


def test_every_popular_restaurant_and_query_is_an_errand() -> None:
    """Three answers a restaurant, one a search; ids are quoted, since users choose them."""
    made = errands(["r/1", "r2"], ['{"query":"국밥"}'])
    assert [errand.path for errand in made][:3] == [
        f"/v1/restaurants/r%2F1/{w}" for w in ("sentiment", "summary", "strengths")
    ]
    assert made[-1] == Errand("/v1/reviews/search", '{"query":"국밥"}')
    assert len({errand.name for errand in made}) == 7
    assert all(Errand(**errand.as_json()) == errand for errand in made)  # type: ignore[arg-type]


@given(st.dictionaries(st.text(min_size=1), st.none() | st.integers() | st.text(), max_size=5))
def test_a_search_has_one_name(search: dict[str, Any]) -> None:
    """The order of its fields, and those that are not set, do not count."""
    turned = dict(reversed([*search.items(), ("not set", None)]))
    assert canonical(turned) == canonical(search)
    assert json.loads(canonical(search)) == {name: value for name, value in search.items() if value is not None}


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
def test_live_traffic_waits_when_a_service_says_so(text: str, waits: bool) -> None:
    """What waits in the bulk lane is nobody's live traffic."""
    assert live_traffic_waits(["", text]) is waits


def test_a_round_that_lost_errands_does_not_hold_up_the_next() -> None:
    """It is under way until all is looked at, or its time is over."""
    outcomes: dict[str, Outcome] = {"a": "computed", "b": "waiting"}
    latest = Round(1000, outcomes)
    assert latest.state == "running"
    assert latest.under_way(1000 + ROUND_SECONDS - 1)
    assert not latest.under_way(1000 + ROUND_SECONDS)
    assert Round(1000, {"a": "computed", "b": "paused"}).state == "paused"
    assert not Round(1000, {"a": "computed", "b": "failed"}).under_way(1000)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture
def env(model_urls: dict[str, str], redis: Redis, tmp_path: Path) -> dict[str, str]:
    """Environment of a service and its worker. Rounds come when they are asked for."""
    rest = {"REVIEW_STORE": str(tmp_path / "reviews"), "CACHE_MEMORY_MB": "0", "PRECOMPUTE_SECONDS": "3600"}
    return {**model_urls, **rest, "REDIS_PORT": str(redis.port)}


@pytest.fixture
def service(env: dict[str, str], sample: list[dict[str, Any]], llm: Server) -> Iterator[Server]:
    """A service with some reviews, and an LLM that always has something to say."""
    httpx.post(f"{llm.url}/tell", json=["nothing of use"] * 100)
    with serving("review_service", port_variable="REVIEW_PORT", env=env) as server:
        some = [review for review in sample if review["restaurant_id"] == sample[0]["restaurant_id"]][:20]
        assert httpx.post(f"{server.url}/v1/reviews", json=some, timeout=60).status_code == 200
        yield server


@pytest.fixture
def restaurant(sample: list[dict[str, Any]]) -> str:
    return str(sample[0]["restaurant_id"])


class Process:
    """A worker or a schedule."""

    def __init__(self, module: str, service: Server, env: dict[str, str], folder: Path) -> None:
        self.heartbeat = folder / f"{module}.heartbeat"
        self._start: Callable[[], Server] = lambda: start(
            f"review_service.{module}",
            port_variable="UNUSED_PORT",
            env={**env, "REVIEW_URL": service.url, "PRECOMPUTE_HEARTBEAT_FILE": str(self.heartbeat)},
        )
        self.server = self._start()

    def again(self) -> None:
        """Another process in its place."""
        self.server = self._start()

    def wait_alive(self) -> None:
        """Until it beats."""
        until(lambda: alive(self.heartbeat), self.server)


def until(holds: Callable[[], bool], server: Server, seconds: float = 60) -> None:
    """Wait; fail with the process's log."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert server.process.poll() is None, server.log()[-3000:]
        assert time.monotonic() < deadline, server.log()[-3000:]
        time.sleep(0.1)


@pytest.fixture
def worker(service: Server, env: dict[str, str], tmp_path: Path) -> Iterator[Process]:
    """A running worker."""
    process = Process("worker", service, env, tmp_path)
    try:
        process.wait_alive()
        yield process
    finally:
        process.server.stop()


def status(service: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{service.url}/v1/precompute/status").json()
    return found


def run_round(service: Server, worker: Process) -> dict[str, Any]:
    """Ask for a round; what came of it."""
    before = status(service)["started_at"]
    time.sleep(1)  # Rounds are told apart by the second in which they begin.
    assert httpx.post(f"{service.url}/v1/precompute").status_code == 202
    until(lambda: status(service)["started_at"] != before and status(service)["state"] != "running", worker.server)
    return status(service)


def sentiment(service: Server, restaurant: str) -> httpx.Response:
    return httpx.get(f"{service.url}/v1/restaurants/{restaurant}/sentiment")


def test_an_answer_is_ready_before_it_is_asked_for(
    service: Server, worker: Process, restaurant: str, sample: list[dict[str, Any]]
) -> None:
    """The first user finds it in the cache, with its age; a review that is added makes another one."""
    assert run_round(service, worker)["computed"] >= 1
    ready = sentiment(service, restaurant)
    assert (ready.status_code, ready.headers["x-cache"]) == (200, "hit")
    assert int(ready.headers["age"]) >= 0
    added = next(review for review in sample[::-1] if review["restaurant_id"] == restaurant)
    assert httpx.post(f"{service.url}/v1/reviews", json=added, timeout=60).json()["written"] == 1
    run_round(service, worker)
    renewed = sentiment(service, restaurant)
    assert renewed.headers["x-cache"] == "hit"
    assert renewed.json()["total_count"] == ready.json()["total_count"] + 1


def test_the_worker_waits_for_live_traffic(service: Server, worker: Process, restaurant: str, llm: Server) -> None:
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
    search = {"query": "맛있어요", "top_k": 3}
    ask = lambda: httpx.post(f"{service.url}/v1/reviews/search", json=search, timeout=60)  # noqa: E731
    counted, found = sentiment(service, restaurant), ask()
    assert [sentiment(service, restaurant).headers["x-cache"], ask().headers["x-cache"]] == ["hit", "hit"]
    gone = found.json()["data"][0]["review"]["review_id"]
    assert httpx.delete(f"{service.url}/v1/reviews/{gone}").json()["deleted"]
    assert sentiment(service, restaurant).json()["total_count"] == counted.json()["total_count"] - 1
    assert gone not in [one["review"]["review_id"] for one in ask().json()["data"]]


def test_frequent_queries_are_learned_and_kept_ready(service: Server, worker: Process) -> None:
    """A search that users make is an errand of the next round; that the worker makes it teaches nothing."""
    search = {"query": "국물이 진한 집", "top_k": 2}
    httpx.post(f"{service.url}/v1/reviews/search", json=search, timeout=60)
    time.sleep(1.5)  # What was noted is told once a second.
    first = run_round(service, worker)
    again = run_round(service, worker)
    total = lambda found: sum(found[name] for name in ("current", "computed", "paused", "failed"))  # noqa: E731
    assert total(first) == total(again)
    assert again["current"] >= 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_ends_loses_no_errand(
    service: Server, worker: Process, restaurant: str, number: signal.Signals, env: dict[str, str], redis: Redis
) -> None:
    """Errands that it had not begun wait in Redis for the next worker; the one at hand is done or asked for again."""
    os.kill(service.process.pid, signal.SIGSTOP)  # So that an errand is at hand for as long as we like.
    worker_pid = worker.server.process.pid
    try:
        queue = open_tasks(env)
        for errand in errands([restaurant], []):
            queue(errand)
        until(lambda: b"unacked" in redis.command("KEYS", "onecard:queue:unacked"), worker.server)
        os.kill(worker_pid, number)
    finally:
        os.kill(service.process.pid, signal.SIGCONT)
    worker.server.process.wait(30)
    worker.again()
    worker.wait_alive()
    until(lambda: redis.command("LLEN", "onecard:queue:precompute") == b":0\r\n", worker.server)
    run_round(service, worker)
    assert sentiment(service, restaurant).headers["x-cache"] == "hit"


def open_tasks(env: dict[str, str]) -> Callable[[Errand], None]:
    """Puts errands on the queue, as a round does."""
    from onecard.cache.settings import RedisSettings
    from review_service.queue import REFRESH, open_queue

    queue = open_queue(RedisSettings(redis_port=int(env["REDIS_PORT"])))
    return lambda errand: queue.send_task(REFRESH, [errand.as_json()])


def test_a_killed_redis_is_found_again(service: Server, worker: Process, restaurant: str, redis: Redis) -> None:
    """It comes back empty; the worker takes the next round as if nothing had been."""
    run_round(service, worker)
    redis.kill()
    assert sentiment(service, restaurant).status_code == 200
    assert httpx.post(f"{service.url}/v1/precompute", timeout=30).status_code == 503
    redis.start()
    until(lambda: httpx.get(f"{service.url}/health/ready").json()["status"] == "ok", service)
    run_round(service, worker)
    assert sentiment(service, restaurant).headers["x-cache"] == "hit"


def test_the_schedule_asks_by_itself(service: Server, worker: Process, env: dict[str, str], tmp_path: Path) -> None:
    """And tells that it lives; SIGTERM ends it."""
    schedule = Process("schedule", service, {**env, "PRECOMPUTE_SECONDS": "1"}, tmp_path)
    try:
        schedule.wait_alive()
        until(lambda: status(service)["state"] == "idle", schedule.server)
    finally:
        assert schedule.server.stop() == 0
