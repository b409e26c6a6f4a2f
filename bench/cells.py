"""What is measured: cells, and what comes out of them."""

from dataclasses import asdict, dataclass
from typing import Any

HEAVY_TEXTS = 1000
"""A cell with at least this many texts in flight is heavy: one wave of it takes a CPU minutes."""


@dataclass(frozen=True, order=True)
class LoadCell:
    """One point of load: so many clients, each sending its next request when the last is answered."""

    texts: int
    """Texts in one request."""
    clients: int

    @property
    def key(self) -> str:
        """`32x1`: 32 clients, one text each."""
        return f"{self.clients}x{self.texts}"

    @property
    def heavy(self) -> bool:
        """Whether it is visited in the first rounds only."""
        return self.clients * self.texts >= HEAVY_TEXTS


SINGLE = LoadCell(texts=1, clients=1)
"""Whose latency is set beside a direct call of the model, with the same texts."""


@dataclass(frozen=True)
class LoadSpec:
    """What the load generator is told."""

    url: str
    model: str
    """The request's `model`."""
    cell: LoadCell
    seconds: float
    """How long requests are started; those under way are then waited for."""
    limit_seconds: float
    """When they are not waited for any longer."""
    seed: str
    """What its texts are made from."""


@dataclass(frozen=True)
class LoadOutcome:
    """What the load generator saw in one cell."""

    requests: int
    """Answered with 200."""
    texts: int
    seconds: float
    """From the first request's start to the last answer."""
    texts_per_second: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    errors: dict[str, int]
    """By status, or by the exception's name."""
    unfinished: int
    """Requests that were given up at the limit."""


@dataclass(frozen=True)
class CellMeasurement:
    """One cell of one contender in one round."""

    contender: str
    round: int
    cell: LoadCell
    outcome: LoadOutcome
    peak_rss_mb: float
    """Resident memory of the server's processes together, in MB (10^6 bytes), the largest seen in the cell."""
    cosine_to_fp32: float
    """Of one answer, asked for after the cell, to the bare model's in FP32."""

    def as_json(self) -> dict[str, Any]:
        """Flat, for the results file."""
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
    """All combinations, light ones first."""
    return sorted(LoadCell(each, count) for each in texts for count in clients)
