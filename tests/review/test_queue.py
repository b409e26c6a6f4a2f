"""The queue in the cache's Redis: as the stack starts it, full."""

from pathlib import Path

from onecard.cache.settings import RedisSettings
from onecard_stack.settings import StackSettings
from onecard_stack.table import Machine, processes
from review_service.queue import PLAN, PREFIX, QUEUE, open_queue
from tests.shared.cache.support import Figures, cache_on, eventually, running_redis

TASKS = 5
VALUE = b"x" * 50_000


async def test_a_full_cache_pushes_no_task_out(tmp_path: Path) -> None:
    """Values of the cache go, since each has a time to live; tasks stay, and more can be added."""
    parts = processes(StackSettings(redis_memory_mb=16), Machine(cores=1, redis_server=tmp_path / "redis-server"))
    argv = next(part.argv for part in parts if part.name == "redis")
    policy = argv[argv.index("--maxmemory") :][:4]
    figures = Figures()
    with running_redis(tmp_path, *policy) as redis:
        queue = open_queue(RedisSettings(redis_port=redis.port))
        for _ in range(TASKS):
            queue.send_task(PLAN)
        async with cache_on(redis.port, figures) as cache:
            for number in range(40):  # 80 MB.
                cache.set_many("chat", [(b"onecard:%d:%d" % (number, at), VALUE) for at in range(40)], 3600)
                stored = 40 * (number + 1)
                await eventually(
                    lambda stored=stored: (
                        figures("onecard_cache_writes_total", tier="redis", outcome="stored") >= stored
                    )
                )
        queue.send_task(PLAN)
        assert b"evicted_keys:0\r" not in redis.command("INFO", "stats")
        assert redis.command("LLEN", PREFIX + QUEUE) == b":%d\r\n" % (TASKS + 1)
