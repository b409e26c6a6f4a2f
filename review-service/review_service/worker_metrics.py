"""What the worker has done, as Prometheus reads it."""

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

from onecard.metrics import SECONDS
from review_service.precompute import Outcome


class WorkerMetrics:
    """Counts rounds and errands."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rounds = Counter("onecard_precompute_rounds_total", "Rounds of precomputing begun.", registry=registry)
        self._errands = Counter(
            "onecard_precompute_errands_total",
            "Answers looked at: current, computed, paused since live traffic waited, or failed.",
            ["outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "onecard_precompute_errand_seconds",
            "Time for an answer that was computed.",
            buckets=SECONDS,
            registry=registry,
        )
        # All are there from the start, so that an increase from nothing is seen.
        for outcome in get_args(Outcome):
            if outcome != "waiting":
                self._errands.labels(outcome)

    def errand(self, outcome: Outcome, seconds: float) -> None:
        """One errand is done."""
        self._errands.labels(outcome).inc()
        if outcome == "computed":
            self._seconds.observe(seconds)
