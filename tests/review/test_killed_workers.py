"""kill -9 of the service, the worker and Redis, in the middle of an import and of a round: nothing is lost, and nothing
that can be seen is done twice."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest

from review_service.precompute.refresh_jobs import refresh_jobs
from tests.review.test_service import total, wait_for
from tests.review.worker_process import WorkerProcess, run_round, sentiment, task_sender, until, visit
from tests.shared.cache.support import RedisProcess
from tests.support import Server, metric, serving


@contextmanager
def job_in_progress(
    service: Server, worker: WorkerProcess, restaurant: str, env: dict[str, str], redis: RedisProcess
) -> Iterator[None]:
    """The service is frozen while the worker waits for it, for as long as we like; other errands are behind."""
    os.kill(service.process.pid, signal.SIGSTOP)
    try:
        queue = task_sender(env)
        for errand in refresh_jobs([restaurant], []):
            queue(errand)
        until(lambda: b"unacked" in redis.command("KEYS", "onecard:queue:unacked"), worker.server)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(service.process.pid, signal.SIGCONT)


def all_is_ready(service: Server, worker: WorkerProcess, restaurant: str) -> bool:
    """The worker makes all ready, and every answer about the restaurant comes from the cache.

    Another round follows while one computes something: maintenance of the indexes, which goes on beside, makes another
    version of the table.
    """
    while run_round(service, worker)["computed"]:
        pass
    paths = [errand.path for errand in refresh_jobs([restaurant], [])]
    return {httpx.get(service.url + path, timeout=60).headers["x-cache"] for path in paths} == {"hit"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_ends_loses_no_errand(
    service: Server,
    worker: WorkerProcess,
    restaurant: str,
    number: signal.Signals,
    env: dict[str, str],
    redis: RedisProcess,
) -> None:
    """Errands that it had not begun wait in Redis for the next worker; the one at hand is done or asked for again."""
    with job_in_progress(service, worker, restaurant, env, redis):
        os.kill(worker.server.process.pid, number)
    worker.server.process.wait(30)
    worker.restart()
    worker.wait_alive()
    until(lambda: redis.command("LLEN", "onecard:queue:precompute") == b":0\r\n", worker.server)
    assert all_is_ready(service, worker, restaurant)


def test_a_service_that_is_killed_under_the_worker(
    service: Server, worker: WorkerProcess, restaurant: str, env: dict[str, str], redis: RedisProcess
) -> None:
    """The errand at hand has failed, and the next round makes up for it; of the reviews none is lost."""
    before = sentiment(service, restaurant).json()
    with job_in_progress(service, worker, restaurant, env, redis):
        service.process.kill()
        service.process.wait()
    with serving("review_service", port_variable="REVIEW_PORT", env=env, port=service.port) as again:
        assert all_is_ready(again, worker, restaurant)
        assert sentiment(again, restaurant).json() == before


def test_a_redis_that_is_killed_under_the_worker(
    service: Server, worker: WorkerProcess, restaurant: str, env: dict[str, str], redis: RedisProcess
) -> None:
    """It comes back empty, without the errands; the worker finds it, and the next round makes all of them again."""
    with job_in_progress(service, worker, restaurant, env, redis):
        redis.kill()
    assert sentiment(service, restaurant).status_code == 200
    assert httpx.post(f"{service.url}/v1/precompute", timeout=30).status_code == 503
    redis.start()
    until(lambda: httpx.get(f"{service.url}/health/ready").json()["status"] == "ok", service)
    visit(service, restaurant, redis)  # what was popular is gone with it
    assert all_is_ready(service, worker, restaurant)


def test_a_redis_that_is_killed_under_an_import(
    service: Server, sample: list[dict[str, Any]], restaurant: str, redis: RedisProcess
) -> None:
    """The import goes on as if nothing had been; what it changed is seen at once, whether Redis is back or not."""
    unseen = [{**one, "text": f"{one['text']} 끝."} for one in sample]
    answers: list[httpx.Response] = []
    sending = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{service.url}/v1/reviews", json=unseen, timeout=120))
    )
    there = total(service)
    kept = [sentiment(service, restaurant) for _ in range(2)]
    assert [answer.headers["x-cache"] for answer in kept] == ["miss", "hit"]
    sending.start()
    # The request for the metrics is the other one.
    wait_for(lambda: metric(service, "onecard_http_in_flight") > 1, "an import that has begun")
    redis.kill()
    assert sending.is_alive()
    sending.join()
    assert answers[0].json()["written"] == len(sample)
    assert total(service) == len(sample) > there
    own = sum(review["restaurant_id"] == restaurant for review in sample)
    assert kept[0].json()["total_count"] < own
    assert sentiment(service, restaurant).json()["total_count"] == own
    redis.start()
    until(lambda: httpx.get(f"{service.url}/health/ready").json()["status"] == "ok", service)
    assert sentiment(service, restaurant).json()["total_count"] == own
    assert httpx.post(f"{service.url}/v1/reviews", json=unseen, timeout=120).json()["unchanged"] == len(sample)
