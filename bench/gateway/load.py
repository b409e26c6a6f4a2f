"""Closed-loop load by wrk, or by our own clients if wrk is not installed; the same for all contenders of a run."""

import itertools
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench.clients import closed_loop
from bench.gateway.requests import HEADERS, PATH, body
from bench.http_client import request_bytes
from bench.load import LatencyTally
from bench.servers import ServerFailed
from bench.stats import percentile

SCRIPT = Path(__file__).with_name("wrk.lua")
_MARK = "figures: "


@dataclass(frozen=True)
class RelayOutcome:
    """Figures of one cell of one contender."""

    requests: int
    """Number of requests that were answered with 200."""
    per_second: float
    p50_ms: float | None
    p99_ms: float | None
    errors: dict[str, int]


def generator() -> str:
    """Name the load generator, for the report."""
    return "wrk, one thread" if shutil.which("wrk") else "this project's own clients (wrk is not installed)"


def run(url: str, clients: int, seconds: float) -> RelayOutcome:
    """Load one server.

    Args:
        url: the server.
        clients: number of concurrent clients.
        seconds: how long.

    Returns:
        The figures.

    Raises:
        ServerFailed: wrk fails.
    """
    if not shutil.which("wrk"):
        requests = itertools.repeat(request_bytes(PATH, body(), HEADERS))
        return summary(*uvloop.run(closed_loop(url, requests, clients=clients, seconds=seconds)))
    headers = [part for pair in HEADERS.items() for part in pair]
    options = ["-t", "1", "-c", str(clients), "-d", f"{max(1, round(seconds))}s", "--timeout", "60s"]
    command = ["wrk", *options, "-s", str(SCRIPT), url, "--", body().decode(), *headers]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        raise ServerFailed(f"wrk failed:\n{made.stderr[-2000:]}")
    return parse(made.stdout)


def summary(tally: LatencyTally, seconds: float) -> RelayOutcome:
    """Summarise the results of our own clients."""
    count = len(tally.latencies_ms)
    p50, p99 = (percentile(tally.latencies_ms, share) for share in (0.5, 0.99))
    return RelayOutcome(count, count / seconds if seconds > 0 else 0.0, p50, p99, tally.errors)


def parse(printed: str) -> RelayOutcome:
    """Parse the figures that `wrk.lua` prints. wrk counts responses of any status, and errors separately.

    Args:
        printed: wrk's output.

    Returns:
        The figures, of successful responses only.

    Raises:
        ServerFailed: the output has no figures.
    """
    line = next((line for line in printed.splitlines() if line.startswith(_MARK)), None)
    if line is None:
        raise ServerFailed(f"wrk printed no figures:\n{printed[-2000:]}")
    found = json.loads(line.removeprefix(_MARK))
    errors = {name: found[name] for name in ("connect", "read", "write", "status", "timeout") if found[name]}
    good = found["requests"] - found["status"]
    p50, p99 = (found[name] / 1000 if found["requests"] else None for name in ("p50_us", "p99_us"))
    return RelayOutcome(good, good / found["microseconds"] * 1e6, p50, p99, errors)


def line(outcome: RelayOutcome) -> str:
    """Render one cell for the screen."""
    p50 = "-" if outcome.p50_ms is None else f"{outcome.p50_ms:.2f} ms"
    troubles = f", errors {outcome.errors}" if outcome.errors else ""
    return f"{outcome.per_second:.0f} requests/s, p50 {p50}{troubles}"
