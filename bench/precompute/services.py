"""The services under test: Redis, both encoders with stand-ins, a canned LLM, reviews, worker, gateway."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from bench.cache.services import metric
from bench.command import start_server
from bench.redis import redis
from bench.servers import ContenderServer, python_module

COMPUTED_RESPONSES_METRIC = "onecard_precompute_job_seconds_count"
"""The worker's counter of finished refresh jobs."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class PrecomputeServices:
    """The services that the benchmark calls."""

    gateway: ContenderServer
    worker: ContenderServer

    @property
    def url(self) -> str:
        """URL of the gateway."""
        return self.gateway.url

    def computed_responses(self) -> float:
        """Count the refresh jobs that the worker has finished so far."""
        return metric(self.worker, COMPUTED_RESPONSES_METRIC)


def start(stack: ExitStack, models: Path, store: Path) -> PrecomputeServices:
    """Start all services, without the schedule: rounds run only on request.

    Args:
        stack: stops the services.
        models: folder with the stand-ins.
        store: folder for the reviews.

    Returns:
        The running services.

    Raises:
        ServerFailed: one did not start.
    """
    cache = {"REDIS_PORT": str(start_server(stack, redis()).port)}
    on_stand_in = {"MODEL_CACHE_PATH": str(models), **_ONE_THREAD, **cache}
    llm = start_server(
        stack, python_module("precompute-llm", "a canned LLM service", "bench.precompute.llm", "CANNED_PORT", {})
    )
    urls = {"LLM_URL": llm.url}
    for kind in ("sentiment", "embedding"):
        what, port = f"the {kind} service on the stand-in", f"{kind.upper()}_PORT"
        server = start_server(stack, python_module(f"precompute-{kind}", what, f"{kind}_service", port, on_stand_in))
        urls[f"{kind.upper()}_URL"] = server.url
    settings = {**urls, **cache, "REVIEW_STORE": str(store)}
    review = start_server(
        stack, python_module("precompute-review", "the review service", "review_service", "REVIEW_PORT", settings)
    )
    urls["REVIEW_URL"] = review.url
    worker = python_module(
        "precompute-worker", "its worker", "review_service.worker", "PRECOMPUTE_METRICS_PORT", settings | urls
    )
    gateway = python_module("precompute-gateway", "the gateway", "gateway", "GATEWAY_PORT", {**urls, **cache})
    return PrecomputeServices(
        worker=start_server(stack, replace(worker, health="/metrics")), gateway=start_server(stack, gateway)
    )
