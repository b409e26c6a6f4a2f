"""The cells that are measured, and their results."""

from dataclasses import asdict, dataclass
from typing import Any

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


@dataclass(frozen=True)
class LoadOutcome:
    """The load generator's figures of one cell."""

    requests: int
    """Number of requests that were answered with 200."""
    texts: int
    seconds: float
    """From the start of the first request to the last response."""
    texts_per_second: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    errors: dict[str, int]
    """Counts by status, or by name of the exception."""
    unfinished: int
    """Requests without a response at the timeout."""


@dataclass(frozen=True)
class CellMeasurement:
    """One cell of one contender in one round."""

    contender: str
    round: int
    cell: LoadCell
    outcome: LoadOutcome
    peak_rss_mb: float
    """Peak of the resident memory of all of the server's processes, in MB (10^6 bytes)."""
    cosine_to_fp32: float
    """Cosine of one vector, requested after the cell, with that of the bare model in FP32."""

    def as_json(self) -> dict[str, Any]:
        """Flatten it for the results file."""
        rest = {"peak_rss_mb": round(self.peak_rss_mb, 1), "cosine_to_fp32": round(self.cosine_to_fp32, 6)}
        return {
            "contender": self.contender,
            "round": self.round,
            **asdict(self.cell),
            **{name: _rounded(value) for name, value in asdict(self.outcome).items() if name != "texts"},
            "texts_answered": self.outcome.texts,
            **rest,
        }


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def order_of_cells(clients: list[int], texts: list[int]) -> list[LoadCell]:
    """List all combinations, light ones first."""
    return sorted(LoadCell(each, count) for each in texts for count in clients)
