"""The queue in the cache's Redis: as the stack starts it, full; behind a password; over TLS."""

import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from celery import Celery
from kombu.exceptions import OperationalError
from prometheus_client import CollectorRegistry
from redis import Redis as Client

from bench.redis_faults.redis import MASTER, FaultyRedis, SentinelGroup, sentinel_group
from onecard.redis.settings import RedisSettings
from onecard_stack.processes.process_table import HostResources, processes
from onecard_stack.settings import StackSettings
from review_service.heartbeat import is_alive
from review_service.precompute.refresh_jobs import ROUND_TIMEOUT_SECONDS, JobOutcome, RefreshJob
from review_service.precompute.task_queue import KEY_PREFIX, PLAN_TASK, QUEUE_NAME, REFRESH_TASK, open_queue
from review_service.precompute.tasks import Precomputer, add_tasks, open_precomputer
from review_service.settings import WorkerSettings
from tests.review.worker_process import until
from tests.shared.cache.support import MetricsReader, RedisProcess, cache_on, eventually, running_redis
from tests.support import metric, start

TASKS = 5
MOVING_SECONDS = 20.0
"""Sentinels take their time to agree, and ten seconds more until they turn an old primary into a replica."""
VALUE = b"x" * 50_000
PASSWORD = "a@b:c/d%41#e?f+g&h;i"
QUOTED = quote(PASSWORD, safe="")


async def test_a_full_cache_pushes_no_task_out(tmp_path: Path) -> None:
    """Values of the cache go, since each has a time to live; tasks stay, and more can be added."""
    parts = processes(StackSettings(redis_memory_mb=16), HostResources(cores=1, redis_server=tmp_path / "redis-server"))
    argv = next(part.argv for part in parts if part.name == "redis")
    policy = argv[argv.index("--maxmemory") :][:4]
    figures = MetricsReader()
    with running_redis(tmp_path, *policy) as redis:
        queue = open_queue(RedisSettings(redis_port=redis.port))
        for _ in range(TASKS):
            queue.send_task(PLAN_TASK)
        async with cache_on(redis.port, figures) as cache:
            for number in range(40):  # 80 MB.
                cache.set_many("chat", [(b"onecard:%d:%d" % (number, at), VALUE) for at in range(40)], 3600)
                stored = 40 * (number + 1)
                await eventually(
                    lambda stored=stored: (
                        figures("onecard_cache_writes_total", tier="redis", outcome="stored") >= stored
                    )
                )
        queue.send_task(PLAN_TASK)
        assert b"evicted_keys:0\r" not in redis.command("INFO", "stats")
        assert redis.command("LLEN", KEY_PREFIX + QUEUE_NAME) == b":%d\r\n" % (TASKS + 1)


@dataclass(frozen=True)
class Planner:
    """What a worker plans rounds with, in this process, where five searches are popular."""

    queue: Celery
    portal: BlockingPortal
    precomputer: Precomputer
    redis: RedisProcess

    def plan(self) -> int:
        """Run the task. Returns how many messages are on the queue after it."""
        self.queue.tasks[PLAN_TASK]()
        return int(self.redis.command("LLEN", KEY_PREFIX + QUEUE_NAME).removeprefix(b":"))

    def count(self, outcome: JobOutcome) -> int:
        """How many jobs of the round have an outcome."""
        latest = self.portal.call(self.precomputer.round_status.read)
        assert latest is not None
        return latest.count(outcome)


@pytest.fixture
def planner(tmp_path: Path) -> Iterator[Planner]:
    """On a Redis of its own."""
    with running_redis(tmp_path) as redis, start_blocking_portal() as portal:
        settings = WorkerSettings(redis_port=redis.port, precompute_restaurants=0)
        with portal.wrap_async_context_manager(open_precomputer(settings, CollectorRegistry())) as precomputer:
            queue, queries = open_queue(settings), precomputer.popularity.queries
            add_tasks(queue, portal, precomputer)
            for number in range(TASKS):
                queries.record(f'{{"query":"{number}"}}')
            portal.call(queries.flush)
            yield Planner(queue, portal, precomputer, redis)


def test_an_errand_expires_with_its_round(planner: Planner) -> None:
    """What a round does not come to is not done beside the next one's."""
    before = datetime.now(UTC)
    planner.plan()
    with Client(port=planner.redis.port) as client:
        message = json.loads(client.lindex(KEY_PREFIX + QUEUE_NAME, 0))
    lives = datetime.fromisoformat(message["headers"]["expires"]) - before
    assert timedelta(seconds=ROUND_TIMEOUT_SECONDS) <= lives < timedelta(seconds=ROUND_TIMEOUT_SECONDS + 60)


def test_a_round_that_could_not_be_sent_does_not_hold_up_the_next(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis goes away after two messages; what was not sent is paused, and the next round has all. It is waited for."""
    send, sent = planner.queue.send_task, list[object]()

    def send_two(*given: Any, **options: Any) -> None:
        if len(sent) == 2:
            raise OperationalError
        sent.append(send(*given, **options))

    monkeypatch.setattr(planner.queue, "send_task", send_two)
    with pytest.raises(OperationalError):
        planner.plan()
    assert (planner.count("waiting"), planner.count("paused")) == (2, TASKS - 2)
    monkeypatch.undo()
    assert planner.plan() == 2 + TASKS
    assert planner.count("waiting") == TASKS
    assert planner.plan() == 2 + TASKS


def test_a_worker_that_is_killed_while_it_sends_a_round_does_not_hold_up_the_next(planner: Planner) -> None:
    """The jobs are listed, and nobody is left to send them."""
    assert len(planner.portal.call(planner.precomputer.plan)) == TASKS
    assert planner.plan() == TASKS


@pytest.mark.parametrize("given", ["parts", "url", "socket"])
def test_the_queue_is_where_the_cache_is(given: str, tmp_path: Path) -> None:
    """However the address is given: with any character in the password, in another database, at a socket."""
    path = tmp_path / "redis.sock"
    with running_redis(tmp_path, "--requirepass", PASSWORD, "--unixsocket", str(path)) as redis:
        settings, database = {
            "parts": (RedisSettings(redis_port=redis.port, redis_password=PASSWORD), 0),
            "url": (RedisSettings(redis_url=f"redis://:{QUOTED}@127.0.0.1:{redis.port}/3"), 3),
            "socket": (RedisSettings(redis_url=f"unix://:{QUOTED}@{path}?db=3"), 3),
        }[given]
        open_queue(settings).send_task(PLAN_TASK)
        with Client(port=redis.port, password=PASSWORD, db=database) as client:
            assert client.llen(KEY_PREFIX + QUEUE_NAME) == 1


@pytest.mark.parametrize(
    ("query", "checked"),
    [
        ("", {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}),
        ("?ssl_cert_reqs=none", {"ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": False}),
        (
            "?ssl_ca_certs=/etc/own.pem",
            {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, "ssl_ca_certs": "/etc/own.pem"},
        ),
    ],
)
def test_over_tls_the_certificate_is_checked_as_the_cache_checks_it(query: str, checked: dict[str, object]) -> None:
    """Celery's own default is to check nothing."""
    queue = open_queue(RedisSettings(redis_url=f"rediss://user:{QUOTED}@cache.example{query}"))
    connection = queue.connection_for_write()
    assert (connection.hostname, connection.userid, connection.password) == ("cache.example", "user", PASSWORD)
    assert connection.ssl == checked


def test_sentinels_name_the_server_of_the_queue() -> None:
    """In the database of the address, whose host does not count."""
    with sentinel_group() as group:
        settings = RedisSettings(redis_url="redis://ignored/3", redis_sentinels=group.addresses)
        open_queue(settings).send_task(PLAN_TASK)
        with Client(port=group.primary.port, db=3) as client:
            assert client.llen(KEY_PREFIX + QUEUE_NAME) == 1


def agreed(group: SentinelGroup, old: FaultyRedis) -> bool:
    """No Sentinel takes `old` for the primary any more, in the answer that redis-py goes by."""
    port = b"$4\r\nport\r\n$%d\r\n%d\r\n" % (len(str(old.port)), old.port)
    return all(port not in one.command("SENTINEL", "MASTER", MASTER) for one in group.sentinels)


async def test_a_worker_follows_a_move(tmp_path: Path) -> None:
    """Once the old primary has become a replica; what was sent meanwhile is done."""
    heartbeat = tmp_path / "heartbeat"
    with sentinel_group() as group:
        env = {"REDIS_SENTINELS": group.addresses, "PRECOMPUTE_HEARTBEAT_FILE": str(heartbeat)}
        worker = start("review_service.worker", port_variable="PRECOMPUTE_METRICS_PORT", env=env)
        try:
            until(lambda: is_alive(heartbeat), worker)
            old = group.primary
            group.fail_over()
            await eventually(lambda: agreed(group, old), MOVING_SECONDS)
            open_queue(RedisSettings(redis_sentinels=group.addresses)).send_task(PLAN_TASK)
            until(lambda: metric(worker, "onecard_precompute_rounds_total") == 1, worker)
            assert worker.process.poll() is None
        finally:
            worker.stop()


@pytest.mark.parametrize("how", ["killed", "frozen", "moved"])
async def test_a_task_sent_after_a_move_is_at_the_new_primary(how: str) -> None:
    """Also while the old one works, and does not know yet that it is none."""
    with sentinel_group() as group, ExitStack() as stack:
        queue = open_queue(RedisSettings(redis_sentinels=group.addresses))
        queue.send_task(PLAN_TASK)
        old = group.primary
        stack.callback(old.thaw)
        do: dict[str, Callable[[], object]] = {"killed": old.kill, "frozen": old.freeze, "moved": group.fail_over}
        do[how]()
        await eventually(lambda: agreed(group, old), MOVING_SECONDS)
        with Client(port=group.primary.port) as client:
            before = client.llen(KEY_PREFIX + QUEUE_NAME)
            for _ in range(TASKS):
                queue.send_task(PLAN_TASK)
            assert client.llen(KEY_PREFIX + QUEUE_NAME) == before + TASKS


def test_one_sentinel_of_three_is_enough_to_send_a_task() -> None:
    """Those that hang or are gone are passed over."""
    with sentinel_group() as group:
        group.sentinels[0].freeze()
        group.sentinels[1].kill()
        open_queue(RedisSettings(redis_sentinels=group.addresses)).send_task(PLAN_TASK)
        with Client(port=group.servers[0].port) as client:
            assert client.llen(KEY_PREFIX + QUEUE_NAME) == 1


def test_over_tls_sentinels_are_asked_and_checked_as_the_server_is() -> None:
    settings = RedisSettings(
        redis_url="rediss://user:secret@ignored?ssl_ca_certs=/etc/own.pem",
        redis_sentinels="a,b:1",
        redis_sentinel_password="hush",
    )
    checked = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, "ssl_ca_certs": "/etc/own.pem"}
    connection = open_queue(settings).connection_for_write()
    assert (connection.hostname, connection.port, connection.userid) == ("a", 26379, "user")
    assert connection.alt == ["sentinel://user:secret@a:26379/0", "sentinel://user:secret@b:1/0"]
    assert connection.ssl == checked
    asking = connection.transport_options["sentinel_kwargs"]
    assert asking == {"password": "hush", "socket_timeout": 1.0, "ssl": True} | checked


def test_the_queue_has_its_own_redis_where_the_cache_is_a_cluster() -> None:
    """Celery's broker knows no Cluster: without a word about the queue nothing starts."""
    cluster = RedisSettings(redis_cluster_nodes="a", queue_redis_url="redis://b:7000/1")
    connection = open_queue(cluster).connection_for_write()
    assert (connection.hostname, connection.port, connection.virtual_host) == ("b", 7000, "1")
    with pytest.raises(SystemExit, match="QUEUE_REDIS_URL"):
        open_queue(RedisSettings(redis_cluster_nodes="a"))


def test_no_search_in_what_the_worker_logs(tmp_path: Path) -> None:
    """Also where it tells all that it does: the task holds what a user has asked for."""
    with running_redis(tmp_path) as redis:
        env = {"REDIS_PORT": str(redis.port), "PRECOMPUTE_HEARTBEAT_FILE": str(tmp_path / "beat"), "LOG_LEVEL": "debug"}
        worker = start("review_service.worker", port_variable="PRECOMPUTE_METRICS_PORT", env=env)
        try:
            errand = RefreshJob("/v1/reviews/search", '{"query": "secret-soup"}')
            open_queue(RedisSettings(redis_port=redis.port)).send_task(REFRESH_TASK, [errand.as_json()])
            until(lambda: "refresh job done" in worker.log(), worker)
            assert "secret-soup" not in worker.log()
        finally:
            worker.stop()


def test_no_password_in_what_the_queue_says_of_itself() -> None:
    """Celery logs the address when it connects, and when it cannot."""
    queue = open_queue(RedisSettings(redis_password=PASSWORD))
    assert PASSWORD not in queue.connection_for_write().as_uri()
    assert QUOTED not in queue.connection_for_write().as_uri()
