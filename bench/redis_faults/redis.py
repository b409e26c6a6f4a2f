"""A Redis that is made ill and well again."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from bench.redis import argv
from bench.servers import ServerFailed, free_port

START_SECONDS = 10.0


class Redis:
    """A redis-server of the run's own: without files, always on the same port. Use it in a `with`."""

    def __init__(self) -> None:
        """Not started yet.

        Raises:
            ServerFailed: there is no redis-server here.
        """
        self.port = free_port()
        self._argv = [*argv(self.port), "--maxmemory-policy", "noeviction"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, empty, and return once it answers.

        Raises:
            ServerFailed: it does not.
        """
        self._process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError):
                self._tell(b"PING")
                return
            time.sleep(0.01)
        raise ServerFailed(f"redis-server does not answer after {START_SECONDS:g} s")

    def kill(self) -> None:
        """End it at once; what it held is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Connections stay open and are still accepted, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def fill(self) -> None:
        """Out of memory: writes are refused, reads go on."""
        self._tell(b"CONFIG", b"SET", b"maxmemory", b"1")

    def make_room(self) -> None:
        """Memory without a bound again."""
        self._tell(b"CONFIG", b"SET", b"maxmemory", b"0")

    def refuse(self) -> None:
        """Answer every command of the cache with an error, over the connections that are open."""
        self._tell(b"ACL", b"SETUSER", b"default", b"-@all", b"+acl")

    def allow(self) -> None:
        """Do as told again."""
        self._tell(b"ACL", b"SETUSER", b"default", b"+@all")

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)

    def _tell(self, *words: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=START_SECONDS) as connection:
            connection.sendall(b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)]))
            answer = connection.recv(4096)
        if not answer.startswith(b"+"):
            raise ServerFailed(f"Redis refused {words[0].decode()}")

    def __enter__(self) -> "Redis":
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@dataclass(frozen=True)
class Fault:
    """One way to be ill."""

    name: str
    what: str
    """One line for the report."""
    begin: Callable[[Redis], None]
    heal: Callable[[Redis], None]
    brief: bool = False
    """It is healed as soon as it has begun."""


FAULTS = (
    Fault("stopped", "killed, and later started again, empty", Redis.kill, Redis.start),
    Fault("frozen", "SIGSTOP, and later SIGCONT", Redis.freeze, Redis.thaw),
    Fault("full", "`maxmemory` of one byte without eviction, so that writes fail", Redis.fill, Redis.make_room),
    Fault("restarted", "killed and started again at once, empty", Redis.kill, Redis.start, brief=True),
    Fault("errors", "every command is answered with an error", Redis.refuse, Redis.allow),
)
