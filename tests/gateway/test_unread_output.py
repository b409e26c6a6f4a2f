"""A gateway whose log nobody reads: its supervisor is stopped, or has forgotten the pipe."""

import http.client
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.support import free_port

REQUESTS = 5_000
"""Their lines are several times what a pipe holds."""
CLIENTS = 4


def test_a_gateway_whose_output_nobody_reads_answers_and_ends() -> None:
    """Thousands of requests are answered, and SIGTERM ends it."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
    port = free_port()

    def ask(_: int) -> set[int]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        statuses: set[int] = set()
        for _ in range(REQUESTS // CLIENTS):
            connection.request("GET", "/v1/nothing")
            answer = connection.getresponse()
            answer.read()
            statuses.add(answer.status)
        connection.close()
        return statuses

    with subprocess.Popen(
        [sys.executable, "-m", "gateway"],
        env={**inherited, "GATEWAY_PORT": str(port), "CACHE_ENABLED": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            with httpx.Client(transport=httpx.HTTPTransport(retries=50)) as waiting:
                waiting.get(f"http://127.0.0.1:{port}/health/live")
            with ThreadPoolExecutor(CLIENTS) as pool:
                assert set().union(*pool.map(ask, range(CLIENTS))) == {404}
            process.terminate()
            assert process.wait(15) == -signal.SIGTERM
        finally:
            process.kill()
