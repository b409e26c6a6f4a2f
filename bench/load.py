"""The encoders' load: `python -m bench.load` reads a `LoadSpec` from standard input and writes figures.

It is a process of its own, and uses little CPU time, because it shares the cores with the server under test: bodies
are prepared before the clock starts, and only status and length of a response are checked.
"""

import json
import sys
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import uvloop

from bench.clients import HttpResponse, closed_loop, request_bytes, status_failure
from bench.measurements import percentiles, ratio
from bench.workload import WORKLOADS

BODIES_PER_SECOND = 1_000
"""Requests prepared per second of load. A faster server ends the cell early."""
MAX_BODY_TEXTS = 20_000
"""Maximum number of texts prepared for a cell, plus one request per client."""
MIN_RESPONSE_BYTES = 2_000
"""Shorter responses are errors: a vector of 384 numbers is longer in any encoding."""
HEAVY_TEXTS = 1000
"""A cell with at least this many texts in flight is heavy: one wave of it takes a CPU minutes."""


@dataclass(frozen=True, order=True)
class LoadCell:
    """One level of load: a number of clients, each of which sends its next request when the last is answered."""

    texts: int
    """Texts in one request."""
    clients: int

    @property
    def key(self) -> str:
        """Name in the results: `32x1` is 32 clients with one text per request."""
        return f"{self.clients}x{self.texts}"

    @property
    def heavy(self) -> bool:
        """Whether it is measured in the first rounds only."""
        return self.clients * self.texts >= HEAVY_TEXTS


SINGLE = LoadCell(texts=1, clients=1)
"""The cell whose latency is compared with direct calls of the model, on the same texts."""


@dataclass(frozen=True)
class LoadSpec:
    """The input of the load generator."""

    url: str
    model: str
    """The field `model` of the requests."""
    cell: LoadCell
    seconds: float
    """How long new requests are started."""
    limit_seconds: float
    """Timeout of the cell, including the wait for the last responses."""
    seed: str
    """Seed of its texts."""
    workload: str = "bert-base"
    """Name of the workload that its texts are of."""


def bodies(load: LoadSpec) -> list[bytes]:
    """Prepare request bodies; no text occurs twice."""
    cell = load.cell
    most = min(int(BODIES_PER_SECOND * load.seconds), MAX_BODY_TEXTS // cell.texts) + cell.clients
    made = WORKLOADS[load.workload].texts(most * cell.texts, seed=load.seed)
    return [body(made[start : start + cell.texts], load.model) for start in range(0, len(made), cell.texts)]


def body(inputs: list[str], model: str) -> bytes:
    """Render a body of OpenAI's embeddings API, with the encoding that OpenAI's SDKs use."""
    return json.dumps({"input": inputs, "model": model, "encoding_format": "base64"}, ensure_ascii=False).encode()


def failure(answer: HttpResponse) -> str | None:
    """Count short responses as errors, too."""
    too_short = answer.status == 200 and len(answer.body) < MIN_RESPONSE_BYTES
    return "short answer" if too_short else status_failure(answer)


async def drive(load: LoadSpec) -> dict[str, Any]:
    """Run one cell. Throughput counts texts of successful requests, and the whole time."""
    path = urlsplit(load.url).path
    requests = iter([request_bytes(path, each, {}) for each in bodies(load)])
    tally = await closed_loop(
        load.url,
        requests,
        clients=load.cell.clients,
        seconds=load.seconds,
        limit_seconds=load.limit_seconds,
        check=failure,
    )
    count = len(tally.latencies_ms)
    return {
        "requests": count,
        "seconds": tally.seconds,
        "texts_per_second": ratio(count * load.cell.texts, tally.seconds) or 0.0,
        **percentiles(tally.latencies_ms, 50, 95, 99),
        "errors": tally.errors,
        "unfinished": tally.unfinished,
        "texts_answered": count * load.cell.texts,
    }


if __name__ == "__main__":
    given = json.load(sys.stdin)
    json.dump(uvloop.run(drive(LoadSpec(**{**given, "cell": LoadCell(**given["cell"])}))), sys.stdout)
