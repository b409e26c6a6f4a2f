"""Real processes for tests: each service runs as its users run it."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

KEY = "test-key-0123456789"
"""API key of the services that tests start with one."""
LLM = "Qwen/Qwen2.5-0.5B-Instruct"
"""The model that the tests' LLM service is asked for; the stand-in answers to its name."""
VLLM_START_SECONDS = 240
"""Longest wait for vLLM: it needs 25 to 60 s on two idle cores."""


def eventually(holds: Callable[[], bool], within: float = 10) -> None:
    """Wait until `holds`; fail after `within` seconds."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Server:
    """A running service."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    log_path: Path

    def log(self) -> str:
        """What it has printed so far."""
        return self.log_path.read_text(errors="replace")

    def wait_ready(self, seconds: float) -> None:
        """Wait for `/health/ready`; fail with the log if the process ends or time runs out."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"exited with {self.process.returncode}:\n{self.log()[-4000:]}")
            try:
                if httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"not ready after {seconds} s:\n{self.log()[-4000:]}")

    def stop(self, seconds: float = 30) -> int:
        """SIGTERM, and SIGKILL to its whole group if it does not end. Returns its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait(5)


def start(module: str, *, port_variable: str, env: Mapping[str, str], port: int | None = None) -> Server:
    """Start `python -m module` in a process group of its own, without waiting for it."""
    port = port or free_port()
    descriptor, log_path = tempfile.mkstemp(prefix=f"{module}-", suffix=".log")
    inherited = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "PYTHONPATH", "TMPDIR")}
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        # Tests that write requests by hand call every host x.
        env={**inherited, "HF_HUB_OFFLINE": "1", "ALLOWED_HOSTS": "x", port_variable: str(port), **env},
        stdout=descriptor,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    os.close(descriptor)
    return Server(f"http://127.0.0.1:{port}", port, process, Path(log_path))


@contextmanager
def serving(
    module: str, *, port_variable: str, env: Mapping[str, str], ready_within: float = 120, port: int | None = None
) -> Iterator[Server]:
    """A service that is ready; stopped at the end."""
    server = start(module, port_variable=port_variable, env=env, port=port)
    try:
        server.wait_ready(ready_within)
        yield server
    finally:
        server.stop()
        server.log_path.unlink(missing_ok=True)


def metric(server: Server, line: str) -> float:
    """The value of one sample of /metrics, named with its labels; 0 before the first one."""
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return float(next((one for one in lines if one.startswith(line + " ")), "0").split()[-1])
