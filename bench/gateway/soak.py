"""Measures the gateway's memory over many requests."""

import itertools
from pathlib import Path
from typing import Any

import uvloop

from bench import files, machine
from bench.clients import closed_loop
from bench.command import say
from bench.gateway.requests import HEADERS, PATH, body
from bench.http_client import request_bytes
from bench.memory import resident_bytes
from bench.servers import ContenderServer
from bench.tables import number, table

CLIENTS = 64
STEP = 50_000
"""Requests between two samples of the memory."""
FOREVER_SECONDS = 3600.0


def measure(gateway: ContenderServer, requests: int) -> list[dict[str, Any]]:
    """Measure resident memory before the first request and after every `STEP` requests."""
    seen: list[dict[str, Any]] = [
        {"requests": 0, "rss_mb": resident_bytes(gateway.pid) / 1e6, "per_second": None, "errors": {}}
    ]
    request = request_bytes(PATH, body(), HEADERS)
    for done in range(STEP, requests + 1, STEP):
        supply = itertools.repeat(request, STEP)
        tally, seconds = uvloop.run(closed_loop(gateway.url, supply, clients=CLIENTS, seconds=FOREVER_SECONDS))
        rate, rss_mb = len(tally.latencies_ms) / seconds, resident_bytes(gateway.pid) / 1e6
        say(f"{done:,} requests: {rss_mb:.1f} MB, {rate:.0f} requests/s {tally.errors or ''}")
        seen.append({"requests": done, "rss_mb": round(rss_mb, 1), "per_second": round(rate), "errors": tally.errors})
    return seen


def as_markdown(document: dict[str, Any]) -> str:
    """Render the report."""
    rows = [["requests answered", "resident MB", "requests/s", "errors"]]
    for row in document["memory"]:
        errors = sum(row["errors"].values())
        rows.append([f"{row['requests']:,}", number(row["rss_mb"]), number(row["per_second"], 0), str(errors)])
    growth = document["growth_mb"]
    parts = [
        "# The gateway's memory over a soak",
        machine.line(document["machine"]),
        f"{CLIENTS} clients in a closed loop. From {STEP:,} requests to the last: **{growth:+.1f} MB**.",
        table(rows),
    ]
    return "\n\n".join(parts) + "\n"


def write(folder: Path, head: dict[str, Any], memory: list[dict[str, Any]]) -> None:
    """Write `gateway-soak.json` and `.md`. Growth counts from the first step, when connection pools are full."""
    growth = round(memory[-1]["rss_mb"] - memory[1]["rss_mb"], 1)
    document = {"machine": head, "memory": memory, "growth_mb": growth}
    files.write(folder, "gateway-soak", document, as_markdown(document))
