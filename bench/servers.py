"""Starts servers as processes, waits until they are ready, and stops them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from bench.paths import LOGS, ROOT

READY_SECONDS = 180
STOP_SECONDS = 20
INHERITED_VARIABLES = ("PATH", "HOME", "LANG", "PYTHONPATH", "TMPDIR", "LD_LIBRARY_PATH")
"""The variables that contenders inherit. The user's settings do not affect them."""


class ServerFailed(Exception):
    """A server ended or does not answer. The message has the end of its log."""


@dataclass(frozen=True)
class Contender:
    """How a server is started and called."""

    name: str
    what: str
    """Description in one line, for the report."""
    command: Callable[[int], list[str]]
    """Makes its command from its port."""
    health: str | None
    """Path that answers 200 once it is ready; None: it is ready once it accepts connections."""
    path: str = "/v1/embeddings"
    """Path of the requests."""
    model: str = "bench"
    """The field `model` of the requests."""
    environment: Callable[[int], dict[str, str]] = field(default=lambda port: {})


def python_module(name: str, what: str, called: str, port_variable: str, settings: Mapping[str, str]) -> Contender:
    """Describe one of our own services: `python -m called`, with its port in the variable `port_variable`."""
    return Contender(
        name,
        what,
        lambda port: [sys.executable, "-m", called],
        "/health/ready",
        path="",
        environment=lambda port: {port_variable: str(port), **settings},
    )


def environment() -> dict[str, str]:
    """Make the environment of every measured process: no hub, GPU or telemetry, and torch's default threads."""
    inherited = {name: os.environ[name] for name in INHERITED_VARIABLES if name in os.environ}
    return {**inherited, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "CUDA_VISIBLE_DEVICES": ""}


def free_port() -> int:
    """Find an unused TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ContenderServer:
    """A running contender. Use it in a `with`, which stops its whole process group at the end."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.port = free_port()
        LOGS.mkdir(parents=True, exist_ok=True)
        self._log: Path = LOGS / f"{contender.name}.log"
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            return subprocess.Popen(
                self.contender.command(self.port),
                cwd=ROOT,
                env={**environment(), **self.contender.environment(self.port)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only the benchmark, which stops the servers in order.
            )

    @property
    def url(self) -> str:
        """URL of the requests."""
        return f"http://127.0.0.1:{self.port}{self.contender.path}"

    @property
    def pid(self) -> int:
        """Process id of its main process."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Wait until it is ready.

        Raises:
            ServerFailed: it ended, or is not ready within `READY_SECONDS`.
        """
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerFailed(f"{self.contender.name} exited with {self._process.returncode}:\n{self._tail()}")
            with suppress(URLError, OSError):
                if self._answers():
                    return
            time.sleep(0.2)
        raise ServerFailed(f"{self.contender.name} is not ready after {READY_SECONDS} s:\n{self._tail()}")

    def _answers(self) -> bool:
        if self.contender.health is None:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
            return True
        with urlopen(f"http://127.0.0.1:{self.port}{self.contender.health}", timeout=5) as answer:
            return bool(answer.status == 200)

    def stop(self) -> None:
        """Send SIGTERM to it, then SIGKILL to whatever is left of its process group."""
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # Ends the processes that it has left behind.
        self._process.wait()

    def restart(self) -> None:
        """Stop it, dropping its requests, start it on a new port, and wait until it is ready."""
        self.stop()
        self.port = free_port()
        self._process = self._start()
        self.wait_ready()

    def __enter__(self) -> "ContenderServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
