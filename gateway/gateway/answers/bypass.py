"""Requests on cached routes whose responses are neither cached nor shared."""

from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter
from starlette.types import Receive, Scope

from gateway.routes import Handler


class BypassMetric:
    """Counts bypassed requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the counter.

        Args:
            registry: for the metrics.
        """
        self._counter = Counter(
            "onecard_answers_bypassed_total",
            "Requests that bypassed the cache, by reason.",
            ["reason"],
            registry=registry,
        )

    def mark(self, response: Response, reason: str) -> Response:
        """Count a request, and mark its response.

        Args:
            response: gets `x-cache: bypass`.
            reason: label of the metric.

        Returns:
            The same response.
        """
        self._counter.labels(reason).inc()
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
