"""The counter of requests. Prometheus reads it, and the worker detects users by it."""

from typing import get_args

from prometheus_client import CollectorRegistry, Counter

from onecard.batching.queue import Lane


class RequestCounter:
    """Counts requests about reviews and restaurants by lane. The worker's requests are in the bulk lane."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "onecard_review_requests_total", "Requests about reviews and restaurants.", ["lane"], registry=registry
        )
        for lane in get_args(Lane):
            self._requests.labels(lane)

    def record(self, lane: Lane) -> None:
        """Count one request."""
        self._requests.labels(lane).inc()
