"""The worker's metrics."""

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

from onecard.metrics import LATENCY_BUCKETS
from review_service.precompute.refresh_jobs import JobOutcome


class WorkerMetrics:
    """Counts rounds and jobs, and measures the duration of jobs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rounds = Counter("onecard_precompute_rounds_total", "Rounds of precomputing started.", registry=registry)
        self._jobs = Counter(
            "onecard_precompute_jobs_total",
            "Refresh jobs by outcome: current, computed, failed, or paused because users' requests were queued.",
            ["outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "onecard_precompute_job_seconds",
            "Duration of refresh jobs whose response was computed.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        # The same metrics under their old names, for dashboards that still use them; to be removed in the next release.
        self._old_jobs = Counter("onecard_precompute_errands_total", "As jobs_total.", ["outcome"], registry=registry)
        self._old_seconds = Histogram(
            "onecard_precompute_errand_seconds", "As job_seconds.", buckets=LATENCY_BUCKETS, registry=registry
        )
        # Exported as 0 from the start, so that `rate` sees the first increase.
        for outcome in get_args(JobOutcome):
            if outcome != "waiting":
                self._jobs.labels(outcome)
                self._old_jobs.labels(outcome)

    def record_job(self, outcome: JobOutcome, seconds: float) -> None:
        """Count a finished job.

        Args:
            outcome: Its outcome; anything but `waiting`.
            seconds: Its duration; observed only if the response was computed.
        """
        for jobs in (self._jobs, self._old_jobs):
            jobs.labels(outcome).inc()
        if outcome == "computed":
            self._seconds.observe(seconds)
            self._old_seconds.observe(seconds)
