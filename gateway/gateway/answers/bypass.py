"""Requests on cached routes whose responses are neither cached nor shared."""

from collections.abc import Collection

from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter
from starlette.types import Receive, Scope

from gateway.routes import Handler


class BypassMetric:
    """Counts bypassed requests."""

    def __init__(self, registry: CollectorRegistry, reasons: Collection[str]) -> None:
        """Register the counter, with a 0 for each reason, so that `rate` sees the first increase.

        Args:
            registry: for the metrics.
            reasons: all that can occur.
        """
        counter = Counter(
            "onecard_answers_bypassed_total",
            "Requests that bypassed the cache, by reason.",
            ["reason"],
            registry=registry,
        )
        self._by_reason = {reason: counter.labels(reason) for reason in reasons}

    def mark(self, response: Response, reason: str) -> Response:
        """Count a request, and mark its response.

        Args:
            response: gets `x-cache: bypass`.
            reason: label of the metric, one of `reasons`.

        Returns:
            The same response.
        """
        self._by_reason[reason].inc()
        response.headers["x-cache"] = "bypass"
        return response


def without_cache(handler: Handler, metric: BypassMetric) -> Handler:
    """A handler for a cached route when the cache is off.

    Args:
        handler: relays requests.
        metric: counts them.

    Returns:
        A handler that marks each response as bypassed.
    """

    async def bypass(scope: Scope, receive: Receive) -> Response:
        return metric.mark(await handler(scope, receive), "disabled")

    return bypass
