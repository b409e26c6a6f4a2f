"""A worker and a schedule as processes, and rounds of theirs."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from onecard.redis.settings import RedisSettings
from review_service.heartbeat import is_alive
from review_service.precompute.refresh_jobs import RefreshJob
from review_service.precompute.task_queue import REFRESH_TASK, open_queue
from tests.shared.cache.support import RedisProcess
from tests.support import Server, start

HALF_LIFE_SECONDS = 86400
"""The service's default, which is part of the key in Redis."""


class WorkerProcess:
    """A worker or a schedule."""

    def __init__(self, module: str, service: Server, env: dict[str, str], folder: Path) -> None:
        self.heartbeat = folder / f"{module}.heartbeat"
        self._start: Callable[[], Server] = lambda: start(
            f"review_service.{module}",
            port_variable="PRECOMPUTE_METRICS_PORT",
            env={**env, "REVIEW_URL": service.url, "PRECOMPUTE_HEARTBEAT_FILE": str(self.heartbeat)},
        )
        self.server = self._start()

    def restart(self) -> None:
        """Another process in its place."""
        self.server = self._start()

    def wait_alive(self) -> None:
        """Until it beats."""
        until(lambda: is_alive(self.heartbeat), self.server)


def until(holds: Callable[[], bool], server: Server, seconds: float = 60) -> None:
    """Wait; fail with the process's log."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert server.process.poll() is None, server.log()[-3000:]
        assert time.monotonic() < deadline, server.log()[-3000:]
        time.sleep(0.1)


def status(service: Server) -> dict[str, Any]:
    """How far the worker is, as the service tells."""
    found: dict[str, Any] = httpx.get(f"{service.url}/v1/precompute/status").json()
    return found


def run_round(service: Server, worker: WorkerProcess) -> dict[str, Any]:
    """Ask for a round; what came of it."""
    before = status(service)["started_at"]
    # Rounds are told apart by the second in which they begin.
    until(lambda: int(time.time()) != before, worker.server)
    assert httpx.post(f"{service.url}/v1/precompute").status_code == 202
    until(lambda: status(service)["started_at"] != before and status(service)["state"] != "running", worker.server)
    return status(service)


def sentiment(service: Server, restaurant: str) -> httpx.Response:
    """An answer that a round makes ready."""
    return httpx.get(f"{service.url}/v1/restaurants/{restaurant}/sentiment")


def visit(service: Server, restaurant: str, redis: RedisProcess) -> None:
    """A user's visit, which keeps no answer; it has reached Redis."""
    url = f"{service.url}/v1/restaurants/{restaurant}/sentiment"
    httpx.get(url, headers={"cache-control": "no-store"}).raise_for_status()
    popular = f"onecard:popular:restaurants:{HALF_LIFE_SECONDS}"
    until(lambda: redis.command("EXISTS", popular) == b":1\r\n", service)


def task_sender(env: dict[str, str]) -> Callable[[RefreshJob], None]:
    """Puts errands on the queue, as a round does."""
    queue = open_queue(RedisSettings(redis_port=int(env["REDIS_PORT"])))
    return lambda errand: queue.send_task(REFRESH_TASK, [errand.as_json()])
