"""The worker's metrics."""

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from onecard.metrics import LATENCY_BUCKETS
from review_service.precompute.refresh_jobs import JobOutcome


class WorkerMetrics:
    """Counts rounds and jobs, and measures the duration of jobs."""

    def __init__(self, registry: CollectorRegistry, interval_seconds: int) -> None:
        """Register the metrics.

        Args:
            registry: Where.
            interval_seconds: Between two rounds.
        """
        self._rounds = Counter("onecard_precompute_rounds_total", "Rounds of precomputing started.", registry=registry)
        self._last_round = Gauge(
            "onecard_precompute_last_round_timestamp_seconds",
            "Unix time of the latest round's start; of the worker's, before the first.",
            registry=registry,
        )
        self._last_round.set_to_current_time()
        interval = Gauge("onecard_precompute_interval_seconds", "PRECOMPUTE_SECONDS.", registry=registry)
        interval.set(interval_seconds)
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

    def record_round(self) -> None:
        """Count a round that starts now."""
        self._rounds.inc()
        self._last_round.set_to_current_time()

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
