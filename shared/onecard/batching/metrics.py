"""What a batcher tells Prometheus."""

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from onecard.batching.queue import LANES, Batch, Lane
from onecard.metrics import SECONDS

_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class BatchMetrics:
    """Counters of one batcher, in its app's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._texts = Histogram("onecard_batch_texts", "Texts in a batch.", buckets=_TEXTS, registry=registry)
        self._seconds = Histogram(
            "onecard_batch_seconds", "Time of a batch on the device.", buckets=SECONDS, registry=registry
        )
        self._tokens = Counter("onecard_batch_tokens_total", "Tokens of text computed.", registry=registry)
        self._padding = Counter("onecard_batch_padding_total", "Tokens of padding computed.", registry=registry)
        self._errors = Counter("onecard_batch_errors_total", "Batches that failed.", registry=registry)
        self._out_of_memory = Counter(
            "onecard_batch_out_of_memory_total", "Batches that did not fit the device's memory.", registry=registry
        )
        self._budget = Gauge(
            "onecard_batch_budget_tokens", "Most tokens of a batch now; less than usual after an out-of-memory error.",
            registry=registry,
        )  # fmt: skip
        self._queue = Gauge("onecard_queue_tokens", "Tokens that wait for the device.", ["lane"], registry=registry)
        self._waited = Histogram(
            "onecard_queue_seconds", "Time a request waited for the device.", ["lane"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self._refused = Counter(
            "onecard_queue_refused_total", "Requests refused because too much waited.", ["lane"], registry=registry
        )
        self._late = Counter(
            "onecard_queue_late_total", "Requests accepted and not answered in time.", ["lane"], registry=registry
        )
        for lane in LANES:
            for metric in (self._waited, self._refused, self._late):
                metric.labels(lane)  # Shown as 0 before the first one.

    def watch(self, queue_tokens: Callable[[Lane], int], budget_tokens: int) -> None:
        """Where the gauges take their figures from."""
        self._budget.set(budget_tokens)
        for lane in LANES:
            self._queue.labels(lane).set_function(partial(queue_tokens, lane))

    def ran(self, batch: Batch, seconds: float, budget_tokens: int) -> None:
        """A batch gave its results."""
        self._texts.observe(len(batch.pieces))
        self._seconds.observe(seconds)
        self._tokens.inc(batch.tokens)
        self._padding.inc(batch.rows.area - batch.tokens)
        self._budget.set(budget_tokens)

    def ran_out(self, budget_tokens: int) -> None:
        """A batch did not fit; the budget is smaller now."""
        self._out_of_memory.inc()
        self._budget.set(budget_tokens)

    def failed(self) -> None:
        """A batch raised an error."""
        self._errors.inc()

    def waited(self, lane: Lane, seconds: float) -> None:
        """A request's first text is on the device."""
        self._waited.labels(lane).observe(seconds)

    def refused(self, lane: Lane) -> None:
        """A request was not let in."""
        self._refused.labels(lane).inc()

    def late(self, lane: Lane) -> None:
        """A request ran out of time."""
        self._late.labels(lane).inc()
