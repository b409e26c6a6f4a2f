"""What the worker has done, as Prometheus reads it."""

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

from onecard.metrics import LATENCY_BUCKETS
from review_service.precompute.refresh_jobs import JobOutcome


class WorkerMetrics:
    """Counts rounds and jobs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rounds = Counter("onecard_precompute_rounds_total", "Rounds of precomputing begun.", registry=registry)
        self._jobs = Counter(
            "onecard_precompute_jobs_total",
            "Answers looked at: current, computed, paused since live traffic waited, or failed.",
            ["outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "onecard_precompute_job_seconds",
            "Time for an answer that was computed.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        # Their names of the release before, for dashboards that still ask for them; they go with the next one.
        self._old_jobs = Counter("onecard_precompute_errands_total", "As jobs_total.", ["outcome"], registry=registry)
        self._old_seconds = Histogram(
            "onecard_precompute_errand_seconds", "As job_seconds.", buckets=LATENCY_BUCKETS, registry=registry
        )
        # All are there from the start, so that an increase from nothing is seen.
        for outcome in get_args(JobOutcome):
            if outcome != "waiting":
                self._jobs.labels(outcome)
                self._old_jobs.labels(outcome)

    def record_job(self, outcome: JobOutcome, seconds: float) -> None:
        """One job is done."""
        for jobs in (self._jobs, self._old_jobs):
            jobs.labels(outcome).inc()
        if outcome == "computed":
            self._seconds.observe(seconds)
            self._old_seconds.observe(seconds)
