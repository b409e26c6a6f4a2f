"""Redis servers with injectable faults: a single one, one with Sentinels, and a Cluster."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.servers import ServerFailed, free_port, redis_command

START_SECONDS = 10.0
AGREEMENT_SECONDS = 30.0
"""How long several servers may take to find each other and to agree."""
SLOTS = 16_384
"""Hash slots of a Cluster."""
_CLUSTER_BUS_OFFSET = 10_000
"""Offset from the port of a Cluster node to the port of its cluster bus."""
MASTER = "mymaster"


class FaultyRedis:
    """A redis-server without data on disk, always on the same port. Use it in a `with`."""

    def __init__(self, *options: str, port: int | None = None) -> None:
        """Prepare the server, with further options of redis-server, without starting it; by default on a free port."""
        self.port = port or free_port()
        self._argv = [*redis_command(self.port), "--maxmemory-policy", "noeviction", *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, without data, and wait until it answers; a ServerFailed if it ends or does not in time."""
        self._process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError):
                self.command("PING")
                return
            if self._process.poll() is not None:
                raise ServerFailed(f"redis-server exited with {self._process.returncode} at port {self.port}")
            time.sleep(0.01)
        raise ServerFailed(f"redis-server does not answer after {START_SECONDS:g} s")

    def kill(self) -> None:
        """Kill it. Its data is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop it with SIGSTOP: connections are still accepted, but not answered."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue it with SIGCONT."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGCONT)

    def command(self, *words: str) -> bytes:
        """Send a command.

        Args:
            words: the command and its arguments.

        Returns:
            The first bytes of the reply (RESP), up to 64 KiB.

        Raises:
            OSError: it does not answer.
            ServerFailed: it answers with an error.
        """
        with socket.create_connection(("127.0.0.1", self.port), timeout=START_SECONDS) as connection:
            parts = [b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words]
            connection.sendall(b"*%d\r\n%s" % (len(words), b"".join(parts)))
            answer = connection.recv(65536)
        if answer.startswith(b"-"):
            raise ServerFailed(f"Redis refused {words[0]}: {answer[:80].decode()}")
        return answer

    def __enter__(self) -> "FaultyRedis":
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class SentinelGroup:
    """A primary and its replica with three Sentinels. Made by `sentinel_group`."""

    def __init__(self, servers: list[FaultyRedis], sentinels: list[FaultyRedis]) -> None:
        self.servers = servers
        """The servers; the first primary comes first."""
        self.sentinels = sentinels
        self._previous_primary = servers[0]

    @property
    def addresses(self) -> str:
        """Addresses of the Sentinels, in the format of REDIS_SENTINELS."""
        return ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)

    @property
    def primary(self) -> FaultyRedis:
        """The present primary, according to the first Sentinel."""
        answer = self.sentinels[0].command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return next(one for one in self.servers if b"%d\r\n" % one.port in answer)

    def fail_over(self) -> None:
        """Request a failover from a Sentinel, as an operator would."""
        self._previous_primary = self.primary
        self.sentinels[0].command("SENTINEL", "FAILOVER", MASTER)

    def kill_primary(self) -> None:
        """Kill the primary. The Sentinels have to notice it."""
        self._previous_primary = self.primary
        self._previous_primary.kill()

    def wait(self) -> None:
        """Wait until the Sentinels name another primary, and the previous one is a replica or does not answer.

        They reconfigure a primary that still runs only after about eight seconds; connections to it stay until then.
        """
        _wait_until(lambda: self.primary is not self._previous_primary and _is_no_primary(self._previous_primary))


@contextmanager
def sentinel_group() -> Iterator[SentinelGroup]:
    """Start a group, and wait until the Sentinels know each other and the replica."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        # For the copy of the data that a primary sends to a replica, by default 5 s after it is asked for.
        copies = ("--dir", str(folder), "--repl-diskless-sync-delay", "0")
        primary = stack.enter_context(FaultyRedis(*copies))
        replica = stack.enter_context(
            FaultyRedis(*copies, "--dbfilename", "replica.rdb", "--replicaof", "127.0.0.1", str(primary.port))
        )
        sentinels = []
        for number in range(3):
            file = folder / f"sentinel{number}.conf"  # Sentinels rewrite this file.
            monitor = f"sentinel monitor {MASTER} 127.0.0.1 {primary.port} 2"
            times = f"sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 5000"
            file.write_text(f"{monitor}\n{times}\n")
            sentinels.append(stack.enter_context(_Sentinel(file)))
        made = SentinelGroup([primary, replica], sentinels)
        wanted = (b"num-slaves\r\n$1\r\n1\r\n", b"num-other-sentinels\r\n$1\r\n2\r\n")
        for one in sentinels:
            _wait_until(partial(_reports, one, wanted))
        _wait_until(lambda: b"master_link_status:up" in replica.command("INFO", "replication"))
        yield made


def _is_no_primary(server: FaultyRedis) -> bool:
    try:
        return b"role:slave" in server.command("INFO", "replication")
    except OSError:
        return True


def _reports(sentinel: FaultyRedis, wanted: tuple[bytes, ...]) -> bool:
    told = sentinel.command("SENTINEL", "MASTER", MASTER)
    return all(part in told for part in wanted)


class _Sentinel(FaultyRedis):
    def __init__(self, file: Path) -> None:
        super().__init__()
        binary = self._argv[0]
        self._argv = [binary, str(file), "--sentinel", "--port", str(self.port), "--bind", "127.0.0.1"]


class Cluster:
    """Three servers with a third of all keys each. Made by `cluster`."""

    def __init__(self, shards: list[FaultyRedis]) -> None:
        self.shards = shards

    @property
    def addresses(self) -> str:
        """Addresses of the shards, in the format of REDIS_CLUSTER_NODES."""
        return ",".join(f"127.0.0.1:{one.port}" for one in self.shards)

    def wait(self) -> None:
        """Wait until all shards report that the Cluster serves all keys."""
        _wait_until(lambda: all(b"cluster_state:ok" in one.command("CLUSTER", "INFO") for one in self.shards))


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start a Cluster, and wait until its shards agree on their keys."""
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        shards = []
        for number in range(3):
            port = free_port()
            while not _is_free(port + _CLUSTER_BUS_OFFSET):
                port = free_port()
            file = str(Path(folder) / f"nodes{number}.conf")
            options = ("--cluster-enabled", "yes", "--cluster-config-file", file, "--cluster-node-timeout", "1000")
            shards.append(stack.enter_context(FaultyRedis(*options, port=port)))
        bounds = [number * SLOTS // 3 for number in range(4)]
        for number, one in enumerate(shards):
            one.command("CLUSTER", "ADDSLOTS", *map(str, range(bounds[number], bounds[number + 1])))
            one.command("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for one in shards[1:]:
            shards[0].command("CLUSTER", "MEET", "127.0.0.1", str(one.port))
        made = Cluster(shards)
        made.wait()
        yield made


def _is_free(port: int) -> bool:
    if port > 65_535:
        return False
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + AGREEMENT_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise ServerFailed(f"the Redis servers have not agreed after {AGREEMENT_SECONDS:g} s")
        time.sleep(0.05)
