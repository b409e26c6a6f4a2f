"""Requests whose response is neither cached nor shared, though their route's are."""

from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter
from starlette.types import Receive, Scope

from gateway.routes import Handler


class BypassMetric:
    """Counts them, in one app's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counter = Counter(
            "onecard_answers_bypassed_total",
            "Requests that were only relayed, by reason.",
            ["reason"],
            registry=registry,
        )

    def mark(self, response: Response, reason: str) -> Response:
        """Count one, and say so in its response."""
        self._counter.labels(reason).inc()
        response.headers["x-cache"] = "bypass"
        return response


def without_cache(handler: Handler, metric: BypassMetric) -> Handler:
    """What answers the requests of a cached route where there is no cache."""

    async def bypass(scope: Scope, receive: Receive) -> Response:
        return metric.mark(await handler(scope, receive), "disabled")

    return bypass
