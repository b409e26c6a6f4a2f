"""The health check of containers."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

import onecard.probe
from tests.support import free_port


@contextmanager
def answering(status: int) -> Iterator[int]:
    """The port of a server that answers its readiness with `status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health/ready" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def probe(port: int) -> int:
    """Exit code of the probe, run as Docker runs it."""
    return subprocess.run([sys.executable, "-m", "onecard.probe", str(port)]).returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_exit_code_is_the_readiness(status: int, code: int) -> None:
    """0 for a service that can work, 1 for one that cannot."""
    with answering(status) as port:
        assert probe(port) == code


def test_what_a_look_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error is an answer; a port that nobody listens at is not the same as one behind which nobody answers."""
    monkeypatch.setattr(onecard.probe, "TIMEOUT_SECONDS", 0.2)
    with answering(200) as port, socket.create_server(("127.0.0.1", 0)) as silent:
        assert onecard.probe.look("127.0.0.1", port) == "answered"
        assert onecard.probe.look("127.0.0.1", silent.getsockname()[1]) == "silent"
    assert onecard.probe.look("127.0.0.1", free_port()) == "refused"


def test_nobody_is_not_ready() -> None:
    """A port without a server."""
    assert probe(free_port()) == 1
