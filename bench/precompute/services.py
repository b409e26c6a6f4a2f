"""The services as they run: Redis, both encoders on the stand-ins, a canned LLM, reviews, worker, gateway."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from bench.cache.services import metric
from bench.command import start_server
from bench.redis import redis
from bench.servers import ContenderServer, python_module

COMPUTED_RESPONSES_METRIC = "onecard_precompute_errand_seconds_count"
"""The worker's counter of answers that it had computed."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class PrecomputeServices:
    """What the benchmark talks to."""

    gateway: ContenderServer
    worker: ContenderServer

    @property
    def url(self) -> str:
        """Of the gateway."""
        return self.gateway.url

    def computed_responses(self) -> float:
        """Answers that the worker had computed so far."""
        return metric(self.worker, COMPUTED_RESPONSES_METRIC)


def start(stack: ExitStack, models: Path, store: Path) -> PrecomputeServices:
    """All of them; rounds of precomputing come when they are asked for. `stack` stops them.

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
