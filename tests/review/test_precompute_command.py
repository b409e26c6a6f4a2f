"""The command `onecard precompute`, as a person runs it."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from onecard_stack.commands import precompute
from onecard_stack.errors import StackError
from onecard_stack.settings import StackSettings
from tests.review.support import gateway_of
from tests.review.worker_process import WorkerProcess
from tests.shared.cache.support import RedisProcess
from tests.support import Server, free_port


@pytest.fixture
def door(service: Server) -> Iterator[Server]:
    """A gateway in front of the service."""
    with gateway_of(service) as server:
        yield server


def run(port: int) -> "subprocess.CompletedProcess[str]":
    """The command, with the gateway at `port`."""
    argv = [sys.executable, "-m", "onecard_stack", "precompute"]
    env = {"GATEWAY_PORT": str(port), "PATH": "", "PYTHONPATH": ":".join(sys.path), "LANG": "C.UTF-8"}
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)


def test_a_round_is_run_and_told_of(door: Server, worker: WorkerProcess) -> None:
    """The three answers about the one restaurant are computed; the next time they are there."""
    assert worker.server.process.poll() is None
    first = run(door.port)
    assert (first.returncode, first.stderr) == (0, "")
    assert "0 current, 3 computed, 0 paused, 0 failed" in first.stdout.splitlines()[-1]
    assert "3 current, 0 computed" in run(door.port).stdout.splitlines()[-1]


def test_where_nothing_runs_it_says_what_to_do(
    door: Server, redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker, no Redis, no stack: one line each."""
    monkeypatch.setattr(precompute, "START_TIMEOUT_SECONDS", 1.0)
    with pytest.raises(StackError, match="onecard logs worker"):
        precompute.run(StackSettings(gateway_port=door.port), print)
    redis.kill()
    without_redis = run(door.port)
    assert without_redis.returncode == 1
    assert "Redis, which holds the worker's tasks, is away" in without_redis.stderr
    without_stack = run(free_port())
    assert without_stack.returncode == 1
    assert "onecard up" in without_stack.stderr
