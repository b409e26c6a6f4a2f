"""Prometheus metrics of a batcher."""

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from onecard.batching.queue import LANES, Batch, Lane
from onecard.metrics import LATENCY_BUCKETS

_BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class BatchMetrics:
    """Metrics of one batcher, in its app's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics.

        Args:
            registry: the app's.
        """
        self._texts = Histogram(
            "onecard_batch_texts", "Texts in a batch.", buckets=_BATCH_SIZE_BUCKETS, registry=registry
        )
        self._seconds = Histogram(
            "onecard_batch_seconds", "Time of a batch on the device.", buckets=LATENCY_BUCKETS, registry=registry
        )
        self._tokens = Counter("onecard_batch_tokens_total", "Tokens of text computed.", registry=registry)
        self._padding = Counter("onecard_batch_padding_total", "Tokens of padding computed.", registry=registry)
        self._errors = Counter("onecard_batch_errors_total", "Batches that failed.", registry=registry)
        self._out_of_memory = Counter(
            "onecard_batch_out_of_memory_total", "Batches that did not fit the device's memory.", registry=registry
        )
        self._limit_tokens = Gauge(
            "onecard_batch_budget_tokens", "Most tokens of a batch now; less than usual after an out-of-memory error.",
            registry=registry,
        )  # fmt: skip
        self._queue_tokens = Gauge(
            "onecard_queue_tokens", "Tokens that wait for the device.", ["lane"], registry=registry
        )
        self._queue_seconds = Histogram(
            "onecard_queue_seconds", "Time a request waited for the device.", ["lane"], buckets=LATENCY_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self._refused = Counter(
            "onecard_queue_refused_total", "Requests refused because too much waited.", ["lane"], registry=registry
        )
        self._timeouts = Counter(
            "onecard_queue_late_total", "Requests accepted and not answered in time.", ["lane"], registry=registry
        )
        for lane in LANES:
            for metric in (self._queue_seconds, self._refused, self._timeouts):
                metric.labels(lane)  # So that it is exported as 0 before the first event.

    def set_sources(self, queue_tokens: Callable[[Lane], int], limit_tokens: int) -> None:
        """Connect the gauges.

        Args:
            queue_tokens: gives the tokens waiting in a lane, whenever Prometheus scrapes.
            limit_tokens: the first limit of a batch.
        """
        self._limit_tokens.set(limit_tokens)
        for lane in LANES:
            self._queue_tokens.labels(lane).set_function(partial(queue_tokens, lane))

    def record_batch(self, batch: Batch, seconds: float, limit_tokens: int) -> None:
        """Count a batch that gave its results.

        Args:
            batch: what ran.
            seconds: time on the device.
            limit_tokens: the limit of the next batch.
        """
        self._texts.observe(len(batch.items))
        self._seconds.observe(seconds)
        self._tokens.inc(batch.tokens)
        self._padding.inc(batch.packing.padded_tokens - batch.tokens)
        self._limit_tokens.set(limit_tokens)

    def record_out_of_memory(self, limit_tokens: int) -> None:
        """Count a batch that did not fit.

        Args:
            limit_tokens: the limit of the next batch, lower now.
        """
        self._out_of_memory.inc()
        self._limit_tokens.set(limit_tokens)

    def record_failure(self) -> None:
        """Count a batch that raised an error."""
        self._errors.inc()

    def observe_queue_seconds(self, lane: Lane, seconds: float) -> None:
        """Record how long a request waited until its first text was on the device.

        Args:
            lane: of the request.
            seconds: the wait.
        """
        self._queue_seconds.labels(lane).observe(seconds)

    def record_refusal(self, lane: Lane) -> None:
        """Count a request that was refused because too much was waiting."""
        self._refused.labels(lane).inc()

    def record_timeout(self, lane: Lane) -> None:
        """Count a request that was accepted and ran out of time."""
        self._timeouts.labels(lane).inc()
